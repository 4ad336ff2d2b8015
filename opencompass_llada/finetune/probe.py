"""A quick look at retrieval during training: held-out answers predicted in one pass.

A lead for the log, not a result: no sampler, no benchmark, argmax at all answer positions (for an
autoregressive network with the true answer before each).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from opencompass_llada.finetune.pieces import Row
from opencompass_llada.finetune.retrieval import RetrievalRows
from opencompass_llada.modeling import LLaDAForMaskedDiffusion

_TOKENS_AT_ONCE = 65536


@torch.no_grad()
def probe_retrieval(
    model: PreTrainedModel,
    retrieval: RetrievalRows,
    *,
    length: int,
    style: str,
    num_rows: int,
    device: torch.device,
) -> float:
    """Measure how many held-out rows have every answer token right.

    Args:
        model: The network.
        retrieval: Maker of rows.
        length: Tokens a row.
        style: Row style, see finetune.retrieval.
        num_rows: Rows; the standard error is at most 50 / sqrt(num_rows) percent.
        device: The network's.

    Returns:
        Percent.
    """
    rng = random.Random(f"probe-{length}-{style}")
    rows = [retrieval.make(length, rng, evaluation=True, style=style) for _ in range(num_rows)]
    size = max(1, _TOKENS_AT_ONCE // length)
    right = [
        _answers_right(model, rows[start : start + size], device)
        for start in range(0, num_rows, size)
    ]
    return 100.0 * torch.cat(right).float().mean().item()


def _answers_right(
    model: PreTrainedModel, rows: Sequence[Row], device: torch.device
) -> torch.Tensor:
    """Tell for each row whether every answer token is predicted, bool [B]."""
    ids_BL = torch.stack([torch.from_numpy(row.input_ids) for row in rows]).to(device)
    weights_BL = torch.stack([torch.from_numpy(row.weights) for row in rows]).to(device)
    is_diffusion = isinstance(model, LLaDAForMaskedDiffusion)
    given_BL = ids_BL
    if is_diffusion:
        given_BL = torch.where(weights_BL > 0, model.config.mask_token_id, ids_BL)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        predicted_BL = model(given_BL).logits.argmax(-1)
    if not is_diffusion:  # position i's logits are of token i + 1
        predicted_BL = predicted_BL.roll(1, -1)
    wrong_BL = (predicted_BL != ids_BL) & (weights_BL == 1.0)
    return ~wrong_BL.any(-1)
