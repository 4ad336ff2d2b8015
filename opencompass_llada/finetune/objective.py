"""The objectives: masked diffusion (noise and loss), and next-token prediction for the twin.

Source: LLaDA, arXiv 2502.09992, Eq. 3: t ~ U[0, 1], each token masked with probability t, cross
entropy on the masked tokens weighted by 1/t. Differs in two ways: t is drawn from a
low-discrepancy grid over the batch and never below a minimum (less variance), and every row
counts alike whatever its number of maskable tokens, so that a short answer is not drowned by
text. The autoregressive loss weighs rows and tokens in the same way.

Shape suffixes: B rows, L positions, N masked positions of all rows, V vocabulary entries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def draw_mask_ratios(num_rows: int, minimum: float, generator: torch.Generator) -> torch.Tensor:
    """Draw one mask ratio a row, spread evenly over [minimum, 1).

    Args:
        num_rows: B.
        minimum: Smallest ratio.
        generator: Source of randomness; its device is the result's.

    Returns:
        float32 [B], in random order.
    """
    device = generator.device
    offset = torch.rand(1, generator=generator, device=device)
    grid_B = torch.arange(num_rows, device=device) / num_rows
    order_B = torch.randperm(num_rows, generator=generator, device=device)
    return minimum + (1 - minimum) * ((grid_B + offset) % 1.0)[order_B]


def mask_rows(
    input_ids_BL: torch.Tensor,
    weights_BL: torch.Tensor,
    mask_all_B: torch.Tensor,
    mask_token_id: int,
    minimum: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Apply the forward process to a batch.

    Args:
        input_ids_BL: int64.
        weights_BL: float32; positions of weight 0 are never masked.
        mask_all_B: bool; rows whose maskable positions are all masked (t = 1).
        mask_token_id: The mask.
        minimum: Smallest mask ratio.
        generator: Source of randomness, on the batch's device.

    Returns:
        noisy ids int64 [B, L], masked bool [B, L], and the mask ratios t float32 [B].
    """
    ratios_B = draw_mask_ratios(len(input_ids_BL), minimum, generator)
    ratios_B = torch.where(mask_all_B, torch.ones_like(ratios_B), ratios_B)
    uniform_BL = torch.rand(input_ids_BL.shape, generator=generator, device=generator.device)
    masked_BL = (uniform_BL < ratios_B[:, None]) & (weights_BL > 0)
    return torch.where(masked_BL, mask_token_id, input_ids_BL), masked_BL, ratios_B


def diffusion_loss(
    logits_NV: torch.Tensor,
    input_ids_BL: torch.Tensor,
    weights_BL: torch.Tensor,
    masked_BL: torch.Tensor,
    ratios_B: torch.Tensor,
) -> torch.Tensor:
    """Return the loss of a batch, an unbiased mean over rows of the weighted cross entropy.

    Args:
        logits_NV: Logits at the masked positions, in row-major order; any float dtype.
        input_ids_BL: int64, the clean tokens.
        weights_BL: float32 weight of each position.
        masked_BL: bool.
        ratios_B: float32 mask ratios.

    Returns:
        float32 scalar: mean over rows of sum_i w_i CE_i / t / sum_i w_i.
    """
    entropies_N = F.cross_entropy(logits_NV.float(), input_ids_BL[masked_BL], reduction="none")
    scale_BL = weights_BL / (ratios_B * weights_BL.sum(-1))[:, None]
    return (entropies_N * scale_BL[masked_BL]).sum() / len(input_ids_BL)


def next_tokens(weights_BL: torch.Tensor) -> torch.Tensor:
    """Mark the positions whose token is predicted from those before it.

    Args:
        weights_BL: float32 weight of each position's loss.

    Returns:
        bool [B, L]; the first position has nothing before it and is never among them.
    """
    predicted_BL = weights_BL > 0
    predicted_BL[:, 0] = False
    return predicted_BL


def autoregressive_loss(
    logits_NV: torch.Tensor,
    input_ids_BL: torch.Tensor,
    weights_BL: torch.Tensor,
    predicted_BL: torch.Tensor,
) -> torch.Tensor:
    """Return the next-token loss of a batch: a mean over rows of weighted cross entropies.

    Args:
        logits_NV: Logits one position before each predicted one, in row-major order.
        input_ids_BL: int64.
        weights_BL: float32 weight of each position.
        predicted_BL: bool, from `next_tokens`; at least one a row.

    Returns:
        float32 scalar: mean over rows of sum_i w_i CE_i / sum_i w_i over predicted positions.
    """
    ones_B = torch.ones(len(input_ids_BL), device=input_ids_BL.device)
    return diffusion_loss(logits_NV, input_ids_BL, weights_BL * predicted_BL, predicted_BL, ones_B)
