"""The papers' algorithm as a benchmark mode: everything recomputed at every step.

Full sequence through plain modules, logits and softmax over the whole sequence, confidence and
top-k over the whole sequence, flash attention (LLaDA's generate.py as LongLLaDA and UltraLLaDA
carry it). The time does not depend on the weights, nor from one step to the next, so a few steps
are timed and scaled.
"""

from __future__ import annotations

import torch
from inference_ceilings import seconds_of
from torch import Tensor

from opencompass_llada.networks import LLaDAForMaskedDiffusion


@torch.inference_mode()
def seeds_step(
    model: LLaDAForMaskedDiffusion, ids_BL: Tensor, prompt_length: int, num_reveals: int
) -> Tensor:
    """Do one denoising step and return the new tokens.

    Args:
        model: The network, its plain forward pass.
        ids_BL: Tokens, masks after the prompt.
        prompt_length: Tokens of the prompt.
        num_reveals: Tokens to reveal.
    """
    mask_id = model.config.mask_token_id
    masked_BL = ids_BL == mask_id
    logits_BLV = model(ids_BL).logits
    predicted_BL = logits_BLV.argmax(dim=-1)
    probabilities_BLV = torch.softmax(logits_BLV, dim=-1)
    confidence_BL = probabilities_BLV.gather(-1, predicted_BL[..., None])[..., 0]
    del logits_BLV, probabilities_BLV
    predicted_BL = torch.where(masked_BL, predicted_BL, ids_BL)
    confidence_BL = torch.where(masked_BL, confidence_BL, -torch.inf)
    revealed_BL = torch.zeros_like(masked_BL)
    for row in range(ids_BL.shape[0]):
        chosen = confidence_BL[row].topk(num_reveals).indices
        revealed_BL[row, chosen] = True
    return torch.where(revealed_BL, predicted_BL, ids_BL)


def baseline_step_seconds(
    model: LLaDAForMaskedDiffusion, prompt: list[int], generation_length: int, num_timed: int
) -> list[float]:
    """Time single steps of the papers' algorithm.

    Args:
        model: The network.
        prompt: Token ids.
        generation_length: Masks after the prompt.
        num_timed: Steps to time, one after the other.
    """
    device = next(model.parameters()).device
    masks = [model.config.mask_token_id] * generation_length
    state = {"ids": torch.tensor([[*prompt, *masks]], device=device)}

    def step() -> None:
        state["ids"] = seeds_step(model, state["ids"], len(prompt), 1)

    return [seconds_of(step, device) for _ in range(num_timed)]


def baseline_fails(model: LLaDAForMaskedDiffusion, num_tokens: int) -> str:
    """Say what happens to the logits and softmax of a whole sequence, without the pass before.

    Args:
        model: The network.
        num_tokens: Tokens of prompt and generation.

    Returns:
        ``fits``, or the error.
    """
    head = model.get_output_embeddings().weight
    try:
        with torch.inference_mode():
            states = torch.randn(1, num_tokens, head.shape[1], device=head.device, dtype=head.dtype)
            torch.softmax(model.get_output_embeddings()(states), dim=-1)
    except torch.OutOfMemoryError as error:
        return f"out of memory: {str(error).splitlines()[0][:120]}"
    return "fits"
