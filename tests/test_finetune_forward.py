"""The network in training: documents apart, and memory savings that change nothing."""

from __future__ import annotations

import random

import pytest
import torch
from finetune_runs import small_recipe
from test_finetune_packing import text_of
from tiny import EOS_ID, MASK_ID, VOCAB_SIZE, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from opencompass_llada.finetune.forward import TrainingNetwork, document_attend, hidden_states
from opencompass_llada.finetune.packing import STRATEGIES
from opencompass_llada.finetune.rows import collate
from opencompass_llada.networks.attention_pattern import Documents

LENGTH = 32
CPU = torch.device("cpu")
KEPT = {"activation_checkpointing": True, "keep_attention": True, "keep_projections": True}


def network(device=CPU, **changes):
    phases = [{"sequence_length": LENGTH, "num_steps": 1, "rows_per_step": 2}]
    recipe = small_recipe(phases=phases, retrieval_share=0.0, **changes)
    return TrainingNetwork(tiny_model().requires_grad_(True).to(device), recipe, device)


def batch_of(spans, *, seed=0, positions=None):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB_SIZE - 10, (2, LENGTH), generator=generator)
    targets = torch.rand(2, LENGTH, generator=generator) < 0.5
    scale = torch.rand(2, LENGTH, generator=generator) * targets
    return {
        "input_ids": ids,
        "targets": targets,
        "scale": scale,
        "positions": positions,
        "spans": spans,
    }


def test_documents_give_the_states_that_each_alone_gives():
    """Against the plain network on each document by itself, at positions from 0."""
    spans = (10, 22, 32)
    starts = torch.cat([torch.arange(n) for n in spans]).view(2, LENGTH)
    net = network()
    batch = batch_of(spans, positions=starts)
    states = net._diffusion_states(batch["input_ids"], batch).flatten(0, 1)
    for part, ids in zip(
        states.split(spans), batch["input_ids"].flatten().split(spans), strict=True
    ):
        expected = hidden_states(net.model, ids[None])[0]
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "leaks"), [("adaptive", False), ("eod", True), ("direct", True)]
)
def test_perturbing_a_document_reaches_others_only_under_full_attention(strategy, leaks):
    packed = STRATEGIES[strategy]([text_of([9, 14, 7])], LENGTH, seed=0, pad_token_id=EOS_ID)
    row = packed.row(0, random.Random(0))
    net = network()
    owner = torch.from_numpy(row.input_ids) // 1000
    ids = torch.from_numpy(row.input_ids) % 200
    states = []
    for change in (0, 1):
        ids[(owner == 2).nonzero()[3]] = 50 + change
        batch = batch_of(row.spans) | {"input_ids": ids[None]}
        states.append(net._diffusion_states(ids[None].clone(), batch)[0])
    moved = (states[0] - states[1]).abs().amax(-1)
    assert moved[owner == 2].max() > 1e-4  # the change was seen at all
    others = moved[(owner == 1) | (owner == 3)].max()
    assert (others > 1e-5) == leaks
    if not leaks:
        assert others == 0.0


def test_padding_changes_no_real_position():
    net = network()
    ids = torch.randint(0, 200, (1, LENGTH))
    batch = batch_of((20, 12)) | {"input_ids": ids}
    first = net._diffusion_states(ids, batch)[0, :20]
    second = net._diffusion_states(torch.cat([ids[:, :20], ids[:, 20:] + 1], 1), batch)[0, :20]
    assert torch.equal(first, second)


def test_restarting_positions_changes_nothing_inside_documents_attended_alone():
    """RoPE knows differences of positions alone; under full attention a restart does matter."""
    restarted = torch.cat([torch.arange(n) for n in (12, 20, 32)]).view(2, LENGTH)
    for spans, equal in (((12, 20, 32), True), ((32, 32), False)):
        net = network()
        plain = net._diffusion_states(batch_of(spans)["input_ids"], batch_of(spans))
        batch = batch_of(spans, positions=restarted)
        moved = net._diffusion_states(batch["input_ids"], batch)
        assert torch.allclose(plain, moved, rtol=1e-3, atol=1e-4) == equal


def loss_and_gradients(net, batch):
    loss = net(batch)
    return loss, torch.autograd.grad(loss, list(net.model.parameters()))


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "offload_checkpoints": True},
        {"activation_checkpointing": True, "keep_attention": True},
        {"activation_checkpointing": True, "keep_attention": True, "offload_checkpoints": True},
        KEPT,
        {**KEPT, "keep_mlp": 1},
        {**KEPT, "mlp_tile": 5},
        {"mlp_tile": 5},
        {"loss_chunk": 3},
        {"activation_checkpointing": True, "mlp_tile": 8, "loss_chunk": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("spans", [None, (10, 22, 32)], ids=["whole", "documents"])
def test_saving_memory_changes_neither_loss_nor_gradients(changes, spans):
    batch = batch_of(spans)
    expected = loss_and_gradients(network(), batch)
    ours = loss_and_gradients(network(**changes), batch)
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-6, atol=1e-6)
    for grad, reference in zip(ours[1], expected[1], strict=True):
        torch.testing.assert_close(grad, reference, rtol=1e-4, atol=1e-6)


def test_kept_attention_is_not_computed_again():
    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += str(func).startswith("aten._scaled_dot_product_flash_attention_for_cpu.")
            return func(*args, **(kwargs or {}))

    calls = {}
    for kept in (False, True):
        with Count() as count:
            net = network(activation_checkpointing=True, keep_attention=kept)
            net(batch_of(None)).backward()
        calls[kept] = count.calls
    assert calls[False] == 2 * calls[True] > 0


def test_masks_stand_where_tokens_are_predicted(monkeypatch):
    net, batch = network(), batch_of(None)
    seen = []
    monkeypatch.setattr(
        net, "_whole", lambda ids: seen.append(ids) or hidden_states(net.model, ids)
    )
    net(batch)
    assert torch.equal(seen[0] == MASK_ID, batch["targets"])
    assert torch.equal(seen[0][~batch["targets"]], batch["input_ids"][~batch["targets"]])


def test_grouped_heads_attend_as_repeated_ones():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 8, 6), torch.randn(2, 2, 8, 6), torch.randn(2, 2, 8, 6)
    attend = document_attend(Documents((3, 5, 8)), CPU)
    repeated = [x.repeat_interleave(2, dim=1) for x in (k, v)]
    torch.testing.assert_close(attend(q, k, v), attend(q, *repeated))


def test_collating_finds_plain_rows():
    def row(spans, positions):
        return {
            **{name: torch.zeros(4) for name in ("input_ids", "targets", "scale")},
            "positions": positions,
            "spans": spans,
        }

    plain = row((4,), torch.arange(4))
    batch = collate([plain, plain])
    assert (batch["spans"], batch["positions"]) == (None, None)
    batch = collate([plain, row((3, 1), torch.tensor([0, 1, 2, 0]))])
    assert batch["spans"] == (4, 3, 1)
    assert batch["positions"].shape == (2, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_variable_length_kernel_equals_a_call_for_each_document():
    torch.manual_seed(0)
    device = torch.device("cuda")
    spans = (100, 412, 512)
    q, k, v = (
        torch.randn(2, 4, 512, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    ours = document_attend(Documents(spans), device)(q, k, v)
    expected = document_attend(Documents(spans), CPU)(*(x.float().cpu() for x in (q, k, v)))
    torch.testing.assert_close(ours.float().cpu(), expected, rtol=2e-2, atol=2e-2)
    ours.float().square().sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))


@pytest.mark.gpu
@pytest.mark.parametrize("spans", [None, (10, 22, 32)], ids=["whole", "documents"])
@pytest.mark.parametrize(
    "changes",
    [
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "keep_attention": True},
        {"activation_checkpointing": True, "offload_checkpoints": True},
        {"activation_checkpointing": True, "keep_attention": True, "offload_checkpoints": True},
        {"activation_checkpointing": True, "keep_attention": True, "compile": True},
        {**KEPT, "keep_mlp": 1, "compile": True},
        {"mlp_tile": 5},
    ],
    ids=str,
)
def test_savings_on_a_device_change_nothing_beyond_bfloat16(changes, spans):
    batch, cuda = batch_of(spans), torch.device("cuda")
    expected = loss_and_gradients(network(), batch)
    net = network(device=cuda, **changes)
    batch = {k: v.to(cuda) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    loss, gradients = loss_and_gradients(net, batch)
    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-2)
    for found, reference in zip(gradients, expected[1], strict=True):
        distance = (found.cpu() - reference).norm() / reference.norm().clamp(min=1e-3)
        assert distance < 0.05
