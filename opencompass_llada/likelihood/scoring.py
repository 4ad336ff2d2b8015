"""Cross entropies of masked target tokens, many draws of masks a call of the model.

Draws no masks and weights nothing.

Shape letters: B rows, L row length, P positions asked for, V vocabulary entries, T target tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from opencompass_llada.sampling.forward import LogitsFunction

EntropyFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(input_ids_BL, positions_BP, targets_BP) -> entropies_BP``: one call of the model.

Rows are of equal length. The result is float, in nats.
"""

#: Positions whose logits are held at once: 2 GiB in float32 at LLaDA's 126,464 entries.
POSITIONS_AT_ONCE = 4096


def entropies_from_logits(logits_function: LogitsFunction) -> EntropyFunction:
    """Make cross entropies of a function that returns logits for the asked positions.

    Args:
        logits_function: A model's ``logits_at``.

    Returns:
        A function that holds the logits of all its positions at once.
    """

    def entropies(input_ids_BL: Tensor, positions_BP: Tensor, targets_BP: Tensor) -> Tensor:
        return _cross_entropy(logits_function(input_ids_BL, positions_BP, None), targets_BP)

    return entropies


def sliced_entropies(
    hidden_states: Callable[[Tensor, None, Tensor], Tensor], head: Callable[[Tensor], Tensor]
) -> EntropyFunction:
    """Make cross entropies of a network's two halves, a slice of positions at a time.

    A whole text of 128K tokens would have 31 GiB of logits in 16 bit otherwise.

    Args:
        hidden_states: ``(input_ids_BL, None, positions_BP)`` to the states before the head.
        head: States to logits.

    Returns:
        A function of one forward pass; gradients are off.
    """

    @torch.inference_mode()
    def entropies(input_ids_BL: Tensor, positions_BP: Tensor, targets_BP: Tensor) -> Tensor:
        states_BPM = hidden_states(input_ids_BL, None, positions_BP)
        size = max(1, POSITIONS_AT_ONCE // len(input_ids_BL))
        parts = [
            _cross_entropy(head(states_BPM[:, start : start + size]), targets)
            for start, targets in zip(
                range(0, targets_BP.shape[1], size), targets_BP.split(size, dim=1), strict=True
            )
        ]
        return torch.cat(parts, dim=1)

    return entropies


def _cross_entropy(logits_BPV: Tensor, targets_BP: Tensor) -> Tensor:
    losses = F.cross_entropy(
        logits_BPV.flatten(0, 1).float(), targets_BP.flatten(), reduction="none"
    )
    return losses.view(targets_BP.shape)


def masked_entropies(
    entropies: EntropyFunction,
    prefix: Sequence[int],
    target: Sequence[int],
    masks: Sequence[Tensor],
    *,
    mask_token_id: int,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> list[float]:
    """Sum the cross entropies of the masked tokens, for every draw.

    Draws of like size share a call, so that little is computed for padding; each draw is one
    forward pass of one row.

    Args:
        entropies: The model call.
        prefix: Ids before the target, never masked.
        target: Ids of the target.
        masks: int64 [P] each: the places in the target that a draw masks, P from 1 on.
        mask_token_id: What stands at masked places.
        batch_size: Rows a call.
        device: The model's.

    Returns:
        Nats, one sum a draw, in the order of the masks.

    Raises:
        ValueError: If prefix or target hold the mask.
        FloatingPointError: If a sum is not finite.
    """
    row_L = torch.tensor([*prefix, *target], dtype=torch.int64)
    if bool((row_L == mask_token_id).any()):
        raise ValueError(
            f"The text holds the mask id {mask_token_id}, which is no text and has no likelihood; "
            "encode it with prompting.tokenization.PromptEncoder."
        )
    sums = [0.0] * len(masks)
    order = sorted(range(len(masks)), key=lambda draw: len(masks[draw]))
    for start in range(0, len(order), batch_size):
        draws = order[start : start + batch_size]
        for draw, value in zip(
            draws,
            _score_batch(entropies, row_L, len(prefix), [masks[i] for i in draws], mask_token_id,
                         device),
            strict=True,
        ):  # fmt: skip
            sums[draw] = value
    return sums


def _score_batch(
    entropies: EntropyFunction,
    row_L: Tensor,
    prefix_length: int,
    masks: Sequence[Tensor],
    mask_token_id: int,
    device: torch.device | str,
) -> list[float]:
    widest = max(map(len, masks))
    # A shorter draw repeats its first place; what the model says there again is left out.
    places_BP = torch.stack([F.pad(mask, (0, widest - len(mask)), value=-1) for mask in masks])
    real_BP = places_BP >= 0
    places_BP = torch.where(real_BP, places_BP, places_BP[:, :1]) + prefix_length
    targets_BP = row_L[places_BP]
    input_ids_BL = row_L.repeat(len(masks), 1).scatter(1, places_BP, mask_token_id)
    losses_BP = entropies(input_ids_BL.to(device), places_BP.to(device), targets_BP.to(device))
    sums_B = torch.where(real_BP.to(device), losses_BP.double(), 0.0).sum(-1)
    if not bool(torch.isfinite(sums_B).all()):
        raise FloatingPointError(
            "The model's cross entropies are not finite; load it in bfloat16 or float32, and check "
            "the checkpoint."
        )
    return sums_B.tolist()
