"""Block diffusion: the doubled mask, the rows' masks, the loss, and the recipes that ask for it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from finetune_runs import RECIPE, SHORT, first_batches, ranks_of, small_recipe, small_trainer
from test_finetune_loop import assert_equal, weights_of
from torch.nn.attention.flex_attention import create_block_mask

from opencompass_llada.finetune.forward import TrainingNetwork, split_rows
from opencompass_llada.finetune.objective import draw_mask_ratio, scale_losses, spread_over_blocks
from opencompass_llada.finetune.packing import STRATEGIES
from opencompass_llada.finetune.recipe_file import load_recipe, parse_recipe
from opencompass_llada.finetune.resources import NetworkShape, plan_memory, step_flops
from opencompass_llada.finetune.rows import TrainingData, collate
from opencompass_llada.finetune.tokens import make_tokenizer
from opencompass_llada.networks import SDARConfig, SDARForMaskedDiffusion, load_checkpoint
from opencompass_llada.networks.attention_pattern import Blocks
from opencompass_llada.networks.doubled import document_blocks, doubled_mask, noisy_states

CPU = torch.device("cpu")
LENGTH, VOCABULARY, MASK = 24, 60, 58
BLOCKS = {"objective": "block_diffusion", "block_length": 4}


def small_network(block_length=4, **changes):
    torch.manual_seed(0)
    config = SDARConfig(
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY},
        **{"mask_token_id": MASK, "eos_token_id": 0, "block_size": block_length},
        initializer_range=0.2,
    )
    phases = [{"sequence_length": LENGTH, "num_steps": 1, "rows_per_step": 2}]
    own = {**BLOCKS, "block_length": block_length, "phases": phases, "retrieval_share": 0.0}
    recipe = small_recipe(**{**own, **changes})
    return TrainingNetwork(SDARForMaskedDiffusion(config), recipe, CPU)


def batch_of(spans=None, block_length=4, *, share=0.5, positions=None):
    generator = torch.Generator().manual_seed(1)
    targets = torch.rand(2, LENGTH, generator=generator) < share
    return {
        "input_ids": torch.randint(1, MASK, (2, LENGTH), generator=generator),
        "targets": targets,
        "scale": torch.rand(2, LENGTH, generator=generator) * targets,
        "positions": positions,
        "spans": spans,
        "block_length": block_length,
    }


def naive_mask(rows, block_length):
    """Who sees whom, place by place."""
    length = sum(rows[0])
    mask = torch.zeros(len(rows), 2 * length, 2 * length, dtype=torch.bool)
    for row, lengths in enumerate(rows):
        start = 0
        for tokens in lengths:
            for i in range(tokens):
                for j in range(tokens):
                    own, other = i // block_length, j // block_length
                    mask[row, start + i, start + j] = other <= own
                    mask[row, length + start + i, start + j] = other < own
                    mask[row, length + start + i, length + start + j] = other == own
            start += tokens
    return mask


@pytest.mark.parametrize("block_length", [1, 4, 24])
@pytest.mark.parametrize("rows", [[(24,)], [(24,), (7, 11, 6)]], ids=str)
def test_doubled_mask_is_the_papers(rows, block_length):
    mask = doubled_mask(rows, block_length).dense()
    assert torch.equal(mask[:, 0], naive_mask(rows, block_length))


@pytest.mark.parametrize("rows", [[(320,)], [(320,), (70, 250)], [(200, 120), (1, 319)]], ids=str)
def test_tiles_are_those_of_the_place_by_place_mask(rows):
    """Against PyTorch's own tiles; a short last tile included."""
    mask = doubled_mask(rows, 8)
    dense, tiles = mask.dense()[:, 0], mask.tiles()

    def rule(row, head, query, key):
        return dense[row, query, key]

    expected = create_block_mask(rule, len(rows), None, 640, 640, device="cpu")
    assert torch.equal(tiles.to_dense(), expected.to_dense())
    assert torch.equal(tiles.full_kv_num_blocks, expected.full_kv_num_blocks)
    for row in range(len(rows)):
        places = torch.arange(640)
        seen = tiles.mask_mod(row, 0, places[:, None], places)
        assert torch.equal(seen, dense[row])


def test_blocks_count_from_a_documents_start():
    starts, blocks, ends = document_blocks((6, 3), 4)
    assert starts.tolist() == [0] * 6 + [6] * 3
    assert blocks.tolist() == [0, 0, 0, 0, 4, 4, 6, 6, 6]
    assert ends.tolist() == [4, 4, 4, 4, 6, 6, 9, 9, 9]


def block_by_block(net, batch, block_length):
    """The loss with a pass for each block of each document: its clean prefix, then its tokens.

    By `Blocks`, whose own oracle is the mask; no noisy block is near another.
    """
    model, total = net.model, torch.zeros(())
    lengths = batch["spans"] or (LENGTH,) * 2
    flat = {name: batch[name].flatten() for name in ("input_ids", "targets", "scale")}
    start = 0
    for tokens in lengths:
        own = slice(start, start + tokens)
        ids, targets, scale = (flat[n][own] for n in ("input_ids", "targets", "scale"))
        for first in range(0, tokens, block_length):
            block = slice(first, min(first + block_length, tokens))
            row = ids[: block.stop].clone()
            row[block] = torch.where(targets[block], MASK, ids[block])
            logits = model(row[None]).logits[0, block]
            entropies = F.cross_entropy(logits, ids[block], reduction="none")
            total = total + (entropies * scale[block])[targets[block]].sum()
        start += tokens
    return total


@pytest.mark.parametrize("spans", [None, (10, 14, 24)], ids=["whole", "documents"])
@pytest.mark.parametrize("block_length", [1, 4, 24])
def test_loss_is_that_of_each_block_after_its_clean_prefix(spans, block_length):
    net, batch = small_network(block_length), batch_of(spans, block_length)
    ours, expected = net(batch), block_by_block(net, batch, block_length)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    gradients = (torch.autograd.grad(loss, list(net.parameters())) for loss in (ours, expected))
    for found, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)
        assert reference.abs().max() > 0  # it flows everywhere


def test_one_block_is_full_attention_over_the_noisy_row():
    """LLaDA's objective: the clean row plays no part."""
    net, batch = small_network(LENGTH), batch_of(block_length=LENGTH)
    plain = dict(batch, block_length=None)
    torch.testing.assert_close(net(batch), net(plain), rtol=1e-5, atol=1e-5)


def test_blocks_of_one_masked_token_are_next_token_training():
    """Each token given all before it and a mask in its place, by a causal pass of its own."""
    net, batch = small_network(1), batch_of(block_length=1, share=1.1)
    ids, expected = batch["input_ids"], torch.zeros(())
    for place in range(LENGTH):
        row = torch.cat([ids[:, :place], torch.full((2, 1), MASK)], 1)
        logits = net.model(row).logits[:, -1]
        entropies = F.cross_entropy(logits, ids[:, place], reduction="none")
        expected = expected + (entropies * batch["scale"][:, place]).sum()
    assert batch["targets"].all()
    torch.testing.assert_close(net(batch), expected, rtol=1e-5, atol=1e-5)


def test_another_document_changes_nothing():
    net, spans = small_network(), (10, 14, 24)
    batch = batch_of(spans)
    batch["targets"][0, 10:] = False  # of the first row only the first document is predicted
    batch["targets"][1] = False
    first = net(batch)
    assert first > 0
    ids = batch["input_ids"].clone()
    ids[0, 10:] = ids[0, 10:] % (MASK - 2) + 1
    torch.testing.assert_close(net(dict(batch, input_ids=ids)), first, rtol=1e-6, atol=1e-7)
    joined = [net(dict(batch, input_ids=i, spans=None)) for i in (batch["input_ids"], ids)]
    assert not torch.allclose(*joined)  # one document's last block holds tokens of the other


def test_positions_restart_where_the_strategy_says():
    starts = torch.cat([torch.arange(n) for n in (10, 14, 24)]).view(2, LENGTH)
    net = small_network()
    for spans, equal in (((10, 14, 24), True), (None, False)):
        plain, moved = (net(batch_of(spans, positions=p)) for p in (None, starts))
        assert torch.allclose(plain, moved, rtol=1e-5, atol=1e-5) == equal


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "offload_checkpoints": True},
        {"mlp_tile": 5, "loss_chunk": 3},
    ],
    ids=str,
)
def test_saving_memory_changes_nothing(changes):
    for spans in (None, (10, 14, 24)):
        net, saving = small_network(), small_network(**changes)
        losses = [n(batch_of(spans)) for n in (net, saving)]
        torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
        for one, other in zip(
            *(
                torch.autograd.grad(x, list(n.parameters()))
                for x, n in zip(losses, (net, saving), strict=True)
            ),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("spans", [None, (10, 14, 24)], ids=["whole", "documents"])
def test_tiles_on_a_device_change_nothing_beyond_bfloat16(spans, compiled):
    net, cuda = small_network(), torch.device("cuda")
    expected = net(batch_of(spans))
    gradients = torch.autograd.grad(expected, list(net.parameters()))
    moved = TrainingNetwork(net.model.to(cuda), small_network(compile=compiled)._recipe, cuda)
    loss = moved(batch_of(spans))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    for found, reference in zip(
        torch.autograd.grad(loss, list(moved.parameters())), gradients, strict=True
    ):
        distance = (found.cpu() - reference).norm() / reference.norm().clamp(min=1e-3)
        assert distance < 0.05


def test_states_of_noisy_rows_are_those_of_training():
    net, batch = small_network(), batch_of()
    ids, targets = batch["input_ids"], batch["targets"]
    noisy = torch.where(targets, MASK, ids)
    states = noisy_states(net.model, ids, noisy, 4)
    logits = net.model.get_output_embeddings()(states)
    entropies = F.cross_entropy(logits[targets], ids[targets], reduction="none")
    loss = (entropies * batch["scale"][targets]).sum()
    torch.testing.assert_close(loss, net(batch), rtol=1e-5, atol=1e-5)


def test_mask_ratios_are_one_a_block_and_spread_evenly():
    blocks = np.repeat(np.arange(16), 4)
    ratios = spread_over_blocks(0.4, blocks, 0.1, np.random.default_rng(0), spread=True)
    each = ratios.reshape(16, 4)
    assert (each == each[:, :1]).all()
    grid = np.sort(each[:, 0])
    np.testing.assert_allclose(np.diff(grid), 0.9 / 16, rtol=1e-6)
    assert np.isclose(grid, 0.4).any()
    assert grid[0] >= 0.1
    loose = spread_over_blocks(0.4, blocks, 0.1, np.random.default_rng(0), spread=False)
    assert len(np.unique(loose)) == 16
    assert np.diff(np.sort(np.unique(loose))).max() > 2 * 0.9 / 16
    alone = spread_over_blocks(0.4, np.zeros(8, int), 0.1, np.random.default_rng(0), spread=True)
    np.testing.assert_allclose(alone, 0.4)


def rows_of(**changes):
    recipe = {"retrieval_share": 0.0, "phases": SHORT, **changes}
    trainer_rows = []
    made = small_recipe(**recipe)
    data = TrainingData(made, make_tokenizer(made))
    for _, loader in data.phases(ranks_of(0, 1)):
        trainer_rows += [loader.dataset[number] for number in range(4)]
    return trainer_rows


def test_rows_of_one_block_are_lladas():
    """Same text, same t, same masks, same weights."""
    ours = rows_of(objective="block_diffusion", block_length=128)
    for row, expected in zip(ours, rows_of(), strict=True):
        assert torch.equal(row["input_ids"], expected["input_ids"])
        assert torch.equal(row["targets"], expected["targets"])
        torch.testing.assert_close(row["scale"], expected["scale"])


def test_scales_are_one_over_t_of_the_block_and_blocks_of_one_are_masked():
    (row, *_), length = rows_of(**BLOCKS), 128
    scale = row["scale"].reshape(-1, 4) * length
    assert (scale == scale[:, :1]).all()
    assert len(scale[:, 0].unique()) == 32
    assert scale.min() >= 1.0
    for row in rows_of(objective="block_diffusion", block_length=1):
        assert row["targets"].all()
        torch.testing.assert_close(row["scale"], torch.full((length,), 1 / length))


def test_mean_over_masks_is_the_sum_of_the_blocks_bounds():
    """Two blocks of two tokens: draws of the objective against the exact integral of each."""
    rng, ids = np.random.default_rng(0), np.ones(4, np.float32)
    values = rng.random((2, 4))  # cross entropy of each place: alone masked, both masked
    exact = sum(
        0.5 * values[0, 2 * b : 2 * b + 2].sum() + 0.5 * values[1, 2 * b : 2 * b + 2].sum()
        for b in range(2)
    )
    blocks, draws = np.array([0, 0, 1, 1]), []
    for number in range(20000):
        drawn = np.random.default_rng([5, number])
        ratio = draw_mask_ratio(1, number // 8, number % 8, 8, 1e-9)
        ratios = spread_over_blocks(ratio, blocks, 1e-9, drawn, spread=True)
        masked = drawn.random(4) < ratios
        both = masked.reshape(2, 2).all(1).repeat(2)
        entropies = np.where(both, values[1], values[0])
        draws.append(float((entropies * scale_losses(ids, ratios, "inverse_t"))[masked].sum()))
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws) - exact / 4) < 4 * error
    assert error < 0.02 * exact / 4


def test_training_writes_an_sdar_checkpoint_that_loads(tmp_path):
    phases = [SHORT[0], {**SHORT[0], "num_steps": 2, "block_length": 16}]
    held_out = {"text": {"generated_seed": 9, "num_documents": 2}, "lengths": [64]}
    more = {"evaluation": {"retrieval_rows": 2, "target_tokens": 32, "num_texts": 2, **held_out}}
    trainer = small_trainer(tmp_path / "out", learning_rate=1e-2, **BLOCKS, phases=phases, **more)
    folder = trainer.train()
    assert 1 < trainer.history[-1]["perplexity@64"] < 1000
    losses = [row["loss"] for row in trainer.history]
    assert losses[-1] < losses[0]
    model = load_checkpoint(folder, dtype=torch.float32)
    assert isinstance(model, SDARForMaskedDiffusion)
    assert model.attention_pattern == Blocks(16)  # the last phase's
    assert model.config.trained_length == 128
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, trainer.model.eval()(ids).logits)
    again = {"init_from": str(folder), "model": {}, "vocab_size": None}
    later = small_trainer(
        tmp_path / "later",
        **{**again, **BLOCKS, "strategy": "adaptive", "retrieval_share": 0.0},
        phases=[{"sequence_length": 256, "num_steps": 2, "rows_per_step": 2}],
    )
    assert later.model.resolved_rope.method == "ntk"  # a block-causal model has no diffusion_ntk
    config = load_checkpoint(later.train()).config
    assert (config.block_size, config.max_position_embeddings) == (4, 256)
    assert config.rope_training["type"] == "ntk"


def test_interrupted_training_ends_with_the_same_weights(tmp_path):
    phases = [{**SHORT[0], "num_steps": 3}, {**SHORT[0], "num_steps": 3, "block_length": 8}]
    changes = {**BLOCKS, "strategy": "adaptive", "phases": phases, "ema_decay": 0.9}
    changes["retrieval_share"] = 0.25
    whole = small_trainer(tmp_path / "whole", **changes)
    whole.train()
    parts = small_trainer(tmp_path / "parts", **changes)
    steps = parts._steps()
    while parts.step < 4:
        parts.take_step(*next(steps))
    parts.index.write()
    parts.save({})
    parts = small_trainer(tmp_path / "parts", **changes)
    assert parts.step == 4
    parts.train()
    assert_equal(weights_of(whole), weights_of(parts))


def test_batches_say_their_block_length(tmp_path):
    (batch,) = first_batches(small_trainer(tmp_path, phases=SHORT, **BLOCKS))
    assert batch["block_length"] == 4
    (batch,) = first_batches(small_trainer(tmp_path, phases=SHORT))
    assert batch["block_length"] is None


def test_spans_are_split_into_rows():
    assert split_rows((2, 2, 4), 4) == [(2, 2), (4,)]
    rows = STRATEGIES["adaptive"]
    assert rows.attends_documents
    row = {
        **{name: torch.zeros(4) for name in ("input_ids", "targets", "scale")},
        "positions": torch.arange(4),
    }
    batch = collate([{**row, "spans": (1, 3)}, {**row, "spans": (4,)}])
    assert split_rows(batch["spans"], 4) == [(1, 3), (4,)]


def test_memory_and_work_are_of_twice_the_tokens():
    shape = NetworkShape(small_network().model.config.shape)
    assert shape.num_parameters == sum(p.numel() for p in small_network().model.parameters())
    phases = [{"sequence_length": 4096, "num_steps": 1, "rows_per_step": 1}]
    plain = plan_memory(small_recipe(phases=phases), shape, 1, on_cuda=True)
    doubled = plan_memory(small_recipe(phases=phases, **BLOCKS), shape, 1, on_cuda=True)
    cast = 2 * shape.num_parameters
    assert doubled.kept - cast == pytest.approx(2 * (plain.kept - cast))
    assert doubled.weights == plain.weights
    mask = naive_mask([(24,)], 4)
    pairs = 4.0 * 2 * 64 * 3 * int(mask.sum())
    flops = [step_flops(shape, (24,), 0, 4), 2 * step_flops(shape, (24,), 0)]
    linear = flops[1] - 2 * 3 * 4.0 * 2 * 64 * 24 * 24
    assert flops[0] == pytest.approx(linear + pairs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": "block_diffusion"}, ["needs block_length", "block_length=4"]),
        ({**BLOCKS, "block_length": 5}, ["sequence_length=128", "block_length=5", "125"]),
        ({"block_length": 4}, ["no effect", "block_diffusion"]),
        ({"phases": [{**SHORT[0], "block_length": 4}]}, ["no effect", "masked_diffusion"]),
        ({**BLOCKS, "block_length": 0}, ["block_length=0", "from 1"]),
        (
            {**BLOCKS, "keep_attention": True, "activation_checkpointing": True},
            ["keep_attention", "leave it out"],
        ),
        ({**BLOCKS, "keep_projections": True}, ["keep_projections=true", "leave it out"]),
        (
            {**BLOCKS, "keep_mlp": 1, "keep_projections": True},
            ["keep_projections=true, keep_mlp=1", "leave them out"],
        ),
        (
            {
                **{**BLOCKS, "init_from": "x", "model": {}, "vocab_size": None},
                "rope_scaling": {"type": "diffusion_ntk", "target_length": 512},
            },
            ["diffusion_ntk", "block-causal", "'ntk'"],
        ),
        ({**BLOCKS, "model": {**RECIPE["model"], "mlp_ratio": 2}}, ["mlp_ratio"]),
    ],
    ids=str,
)
def test_recipes_are_refused_before_anything_loads(change, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse_recipe({**RECIPE, **change})
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("objective", "start", "words"),
    [
        ("block_diffusion", "asset:tiny-llada", ["'llada'", "'sdar'", "masked_diffusion"]),
        ("block_diffusion", "asset:tiny-ar", ["'llama'", "checkpoint of one of them"]),
    ],
)
def test_checkpoints_of_another_kind_are_refused(tmp_path, objective, start, words):
    changes = {"init_from": start, "model": {}, "vocab_size": None, "objective": objective}
    phases = [{"sequence_length": 512, "num_steps": 1, "rows_per_step": 1}]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        small_trainer(tmp_path, **changes, block_length=4, phases=phases)
    assert all(word in str(error.value) for word in words), error.value


def test_a_run_begun_before_there_were_blocks_goes_on(tmp_path):
    trainer = small_trainer(tmp_path, phases=SHORT)
    trainer.take_step(*next(trainer._steps()))
    trainer.index.write()
    trainer.save({})
    file = tmp_path / "checkpoints.json"
    index = json.loads(file.read_text())
    del index["recipe"]["block_length"], index["recipe"]["phases"][0]["block_length"]
    file.write_text(json.dumps(index))
    assert small_trainer(tmp_path, phases=SHORT).step == 1


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}], ids=["full", "lora"])
def test_adapters_are_merged_into_an_sdar_checkpoint(tmp_path, lora):
    first = small_trainer(tmp_path / "first", phases=SHORT, **BLOCKS).train()
    changes = {"init_from": str(first), "model": {}, "vocab_size": None, "phases": SHORT}
    trainer = small_trainer(tmp_path / "later", lora=lora, learning_rate=0.05, **changes, **BLOCKS)
    if lora:
        adapted = [name for name, _ in trainer.model.named_parameters() if "lora_A" in name]
        assert len(adapted) == 2 * 7
    before, after = (load_checkpoint(f, dtype=torch.float32) for f in (first, trainer.train()))
    moved = [n for n, w in before.state_dict().items() if not torch.equal(w, after.state_dict()[n])]
    assert any("q_norm" in name for name in moved)
    assert any("gate_proj" in name for name in moved)
    assert any("embed" in name or "lm_head" in name for name in moved) == (lora is None)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = trainer.model.eval()(ids).logits
        torch.testing.assert_close(after(ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_masked_diffusion_refuses_a_block_causal_checkpoint(tmp_path):
    folder = small_trainer(tmp_path / "first", phases=SHORT, **BLOCKS).train()
    changes = {"init_from": str(folder), "model": {}, "vocab_size": None, "phases": SHORT}
    with pytest.raises(ValueError, match="Use objective=block_diffusion"):
        small_trainer(tmp_path / "second", **changes)


def test_tiny_block_differs_from_tiny_llada_in_its_objective_alone(repository_root):
    files = (
        repository_root / "tiny_models" / f"tiny_{n}.yaml" for n in ("pretrain", "block_pretrain")
    )
    first, second = map(load_recipe, files)
    names = [field.name for field in dataclasses.fields(first)]
    differing = {name for name in names if getattr(first, name) != getattr(second, name)}
    assert differing == {"output_dir", "objective", "block_length"}


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "yarn", "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
        {"rope_type": "linear", "factor": 4.0},
    ],
)
def test_a_scaling_of_config_json_is_written_with_what_was_trained(scaling):
    from types import SimpleNamespace

    from opencompass_llada.finetune.published import config_fields
    from opencompass_llada.networks import SDARConfig, SDARForMaskedDiffusion

    config = SDARConfig(
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 64},
        **{"mask_token_id": 63, "eos_token_id": 62, "max_position_embeddings": 64},
        **{"rope_theta": 1e4, "rope_scaling": scaling},
    )
    trained = SDARForMaskedDiffusion(config)
    fields = config_fields(trained, SimpleNamespace(dtype="float32", trained_length=256))
    again = SDARForMaskedDiffusion(SDARConfig.from_dict(fields)).resolved_rope
    rope = trained.resolved_rope
    torch.testing.assert_close(again.inverse_frequencies_D, rope.inverse_frequencies_D)
    assert again.attention_factor == rope.attention_factor
    assert again.longest_context >= 256
