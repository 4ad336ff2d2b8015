"""Activation checkpoints in host memory: the same bits, memory used again, and asked for ahead."""

from __future__ import annotations

import pytest
import torch
from finetune_runs import small_recipe
from tiny import tiny_model
from torch.utils.checkpoint import checkpoint

from opencompass_llada.finetune.offload import HostPool, Offload, host_bytes, piece_bytes
from opencompass_llada.finetune.parallel import Ranks
from opencompass_llada.finetune.resources import (
    NetworkShape,
    check_fits,
    plan_host_memory,
    plan_memory,
)

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]
NUM_LAYERS, WIDTH, ROWS = 5, 24, 7


class Watched(Offload):
    """Notes which tensors are brought back, by what they hold first."""

    def __init__(self, *, pinned: bool) -> None:
        super().__init__(pinned=pinned, piece=100)  # no divisor of a tensor's bytes
        self.loaded: list[float] = []

    def _load(self, saved):
        tensor, event = super()._load(saved)
        if event is not None:
            event.synchronize()
        self.loaded.append(tensor.flatten()[0].item())
        return tensor, event


def layers_of(device):
    torch.manual_seed(0)
    return [torch.nn.Linear(WIDTH, WIDTH).to(device) for _ in range(NUM_LAYERS)]


def run(layers, x, offload=None):
    inputs = []
    for layer in layers:
        inputs.append(x.flatten()[0].item())

        def block(y, layer=layer):
            return y + torch.tanh(layer(y))

        if offload is None:
            x = block(x)
        else:
            with offload.hooks():
                x = checkpoint(block, x, use_reentrant=False)
    return x, inputs


def gradients(layers, x, offload=None):
    x = x.clone().requires_grad_(True)
    if offload is not None:
        offload.new_pass()
    out, inputs = run(layers, x, offload)
    weights = [layer.weight for layer in layers]
    return torch.autograd.grad(out.square().sum(), [x, *weights]), inputs


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_the_same_bits_and_memory_is_used_again(device):
    layers = layers_of(device)
    offload = Watched(pinned=device == "cuda")
    for step in range(3):
        x = torch.randn(ROWS, WIDTH, device=device)
        expected, _ = gradients(layers, x)
        found, inputs = gradients(layers, x, offload)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        # Each input comes back once, the last first.
        assert offload.loaded == inputs[::-1], step
        offload.loaded.clear()
        pieces = -(-ROWS * WIDTH * 4 // 100) * NUM_LAYERS
        assert offload.pool.num_pieces == pieces
        assert len(offload.pool.take(0)) == 0


def test_the_input_before_comes_back_while_a_block_is_computed_again():
    layers, offload = layers_of("cpu"), Watched(pinned=False)
    order = []
    hooks = [
        layer.register_forward_hook(lambda *_, n=number: order.append((n, len(offload.loaded))))
        for number, layer in enumerate(layers)
    ]
    gradients(layers, torch.randn(ROWS, WIDTH), offload)
    # Computed again from the last: by then its own input and the one before it are there.
    assert order[NUM_LAYERS:] == [(4, 2), (3, 3), (2, 4), (1, 5), (0, 5)]
    for hook in hooks:
        hook.remove()


def test_a_pass_without_a_backward_pass_gives_its_memory_back():
    layers, offload = layers_of("cpu"), Watched(pinned=False)
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    for _ in range(2):
        offload.new_pass()
        run(layers, x, offload)
    expected, _ = gradients(layers, x.detach())
    found, _ = gradients(layers, x.detach(), offload)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert offload.num_bytes <= 2 * host_bytes(NUM_LAYERS, ROWS * WIDTH * 4, pinned=False)


def test_no_memory_to_pin_says_what_to_do(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("CUDA error: out of memory")

    pool = HostPool(64, pinned=False)
    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(MemoryError, match="sequence_parallel.*offload_checkpoints=false"):
        pool.take(10)


def recipe_of(**changes):
    phases = [{"sequence_length": 65536, "num_steps": 1, "rows_per_step": 1}]
    return small_recipe(phases=phases, activation_checkpointing=True, **changes)


def test_the_plan_counts_the_host_and_refuses_what_it_lacks():
    shape = NetworkShape(tiny_model().config.shape)
    size = 65536 * 2 * shape.sizes.width
    layers = shape.sizes.num_layers
    plans = [
        plan_memory(recipe_of(**changes), shape, 1, on_cuda=True).kept
        for changes in (
            {},
            {"keep_attention": True},
            {"offload_checkpoints": True},
            {"keep_attention": True, "offload_checkpoints": True},
        )
    ]
    here = min(2, layers)
    numbers = [layers, 2 * layers, here, here + layers]
    assert [plan - plans[0] for plan in plans] == [(n - layers) * size for n in numbers]
    assert plan_host_memory(recipe_of(), shape, 1, on_cuda=True) == 0
    offloading = recipe_of(offload_checkpoints=True)
    planned = plan_host_memory(offloading, shape, 1, on_cuda=True)
    assert layers * size <= planned < layers * (size + piece_bytes(True))
    shared = recipe_of(offload_checkpoints=True, sequence_parallel=4)
    assert plan_host_memory(shared, shape, 4, on_cuda=False) == pytest.approx(
        layers * size / 2, abs=layers * piece_bytes(False)
    )
    ranks = Ranks(
        **{"rank": 0, "world_size": 1, "sequence_parallel": 1, "local_world_size": 4},
        device=torch.device("cpu"),
    )
    with pytest.raises(ValueError, match="4 processes, more than the machine's 0.0 GB"):
        check_fits(recipe_of(offload_checkpoints=True, host_memory_limit=1e-3), shape, ranks)
    check_fits(offloading, shape, ranks)
