"""Passes, clocks and comparisons of `block_causal`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from inference_ceilings import synchronize
from torch import Tensor

from opencompass_llada.inference import FastNetwork, PassServer
from opencompass_llada.inference.forward import CacheSlots
from opencompass_llada.networks import BidirectionalNetwork
from opencompass_llada.networks.attention import attend_with
from opencompass_llada.sampling.loop import StepListener

CARD = 80e9
"""Bytes of the card that iLLaDA-8B is to fit, which a larger one is limited to for it."""


class StepClock(StepListener):
    """Notes the seconds of each step."""

    def __init__(self, device: torch.device) -> None:
        """Begin."""
        self._device, self.seconds = device, []  # type: ignore[var-annotated]

    def start_batch(self, num_samples: int, plan: Any) -> None:
        """Begin the first step."""
        self._last = time.perf_counter()

    def finish_step(self, block_index: int, step_index: int) -> None:
        """End a step and begin the next."""
        synchronize(self._device)
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


@contextlib.contextmanager
def limited_memory(device: torch.device) -> Iterator[None]:
    """Let PyTorch have no more of a larger card than `CARD`."""
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    if total <= CARD:
        yield
        return
    torch.cuda.set_per_process_memory_fraction(CARD / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextlib.contextmanager
def shortened(fast: FastNetwork) -> Iterator[None]:
    """Run the first two layers alone."""
    layers = fast.layers
    fast.layers = layers[:2]
    try:
        yield
    finally:
        fast.layers = layers


@torch.inference_mode()
def causal_pass(server: PassServer, ids_BL: Tensor) -> None:
    """Cache a whole row under causal attention in one pass, as `Session.prefill` does blocks."""
    network, cache, length = server.network, server._cache, ids_BL.shape[1]
    assert cache is not None, "a session that caches was opened"
    positions_T = torch.arange(length, device=ids_BL.device)
    last = len(network.layers) - 1

    def attend(index: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        if index == last:
            return q_THD
        rows = [x.transpose(0, 1)[None] for x in (q_THD, k_TGD, v_TGD)]
        if ids_BL.is_cuda:  # the fastest there is: cuDNN's
            out = torch.ops.aten._scaled_dot_product_cudnn_attention(
                *rows, None, True, 0.0, True, False
            )[0]
        else:
            out = attend_with(None, *rows, is_causal=True)
        return out[0].transpose(0, 1)

    network.run_layers(
        network.embed(ids_BL[0]),
        positions_T,
        network.network.prepare(length, ids_BL.device),
        attend,
        positions_T[:1],
        CacheSlots(cache, positions_T),
    )


Pass = tuple[Tensor, list[Tensor]]
"""Logits of the last block and each layer's keys before it."""


@torch.inference_mode()
def chunked_pass(model: BidirectionalNetwork, ids_BL: Tensor, length: int, block: int) -> Pass:
    """Run a prefix in chunks, then the block after it."""
    server = PassServer(FastNetwork(model))
    row = [ids_BL.shape[1]]
    session = server.open(row, block_length=block, cache_dtype="bfloat16", passes=1)
    session.prefill(ids_BL, [length])
    positions_BP = torch.arange(length, row[0], device=ids_BL.device)[None]
    logits_BPV = session.partial_pass(ids_BL, [length], block, positions_BP)
    assert server._cache is not None, "a session that caches was opened"
    keys = [layer.read(0, length, model.dtype)[0].clone() for layer in server._cache.layers]
    return logits_BPV, keys


@torch.inference_mode()
def dense_pass(model: BidirectionalNetwork, ids_BL: Tensor, length: int) -> Pass:
    """Run a row of the plain network under a dense mask."""
    total, keys = ids_BL.shape[1], []
    cos_LD, sin_LD = model.prepare(total, ids_BL.device)
    mask = model.attention_pattern.batch_mask(None, total, ids_BL.device)

    def attend(q_BHPD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor) -> Tensor:
        keys.append(k_BGLD[0, :, :length].transpose(0, 1))
        return attend_with(None, q_BHPD, k_BGLD, v_BGLD, mask)

    x_BLM = model.get_input_embeddings()(ids_BL)
    states_BLM = model.run_blocks(x_BLM, (cos_LD[:total], sin_LD[:total]), attend)
    return model.get_output_embeddings()(states_BLM[:, length:]), keys


def agreement(first: Tensor, second: Tensor) -> dict[str, float]:
    """Return how far logits are apart, of the second's norm, and how often the best agree."""
    same = first.argmax(-1) == second.argmax(-1)
    return {"relative_error": relative_error(first, second), "argmax": same.float().mean().item()}


def relative_error(first: Tensor, second: Tensor) -> float:
    """Return the norm of the difference, of the second's norm."""
    difference = (first.double() - second.double()).norm() / second.double().norm()
    return difference.item()


def compare(first: Pass, second: Pass) -> dict[str, Any]:
    """Return how far two passes are apart."""
    pairs = zip(first[1], second[1], strict=True)
    return {**agreement(first[0], second[0]), "keys": [relative_error(*pair) for pair in pairs]}
