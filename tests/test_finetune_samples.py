"""Prompts with answers: every sample counts alike, is whole, alone, and padded as asked."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from finetune_runs import RECIPE, ranks_of, small_recipe, small_trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_finetune_packing import text_of

from opencompass_llada.finetune import objective
from opencompass_llada.finetune.checkpoints import CheckpointIndex
from opencompass_llada.finetune.packing import STRATEGIES, Row
from opencompass_llada.finetune.recipe import AnswerPadding
from opencompass_llada.finetune.samples import number_samples, padded_lengths
from opencompass_llada.networks import load_checkpoint

#: Rows of 96 tokens that hold one to about eight samples each.
SAMPLES = {
    **RECIPE,
    "strategy": "adaptive",
    "retrieval_share": 0.0,
    "phases": [{"sequence_length": 96, "num_steps": 4, "rows_per_step": 4}],
    "evaluation": {},
}
BLOCKS = {"objective": "block_diffusion", "block_length": 4}


def write_samples(folder, number=40, longest=30, middle=4.5):
    """Write prompts with answers of very different lengths."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(middle), 1.2, number), 1, longest).astype(int)
    rows = [{"q": f"Count {n % 7}.", "text": "la " * size} for n, size in enumerate(lengths)]
    file = folder / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{"paths": [str(file)], "prompt_field": "q"}]


def data_of(**changes):
    from opencompass_llada.finetune.rows import TrainingData
    from opencompass_llada.finetune.tokens import make_tokenizer

    recipe = small_recipe(SAMPLES, **changes)
    return TrainingData(recipe, make_tokenizer(recipe))


def rows_of(data, rank=0, world=1):
    """Return a step's rows of every batch, one by one."""
    return [
        {name: batch[name][index] for name in ("input_ids", "targets", "scale")}
        for _, loader in data.phases(ranks_of(rank, world))
        for batch in loader
        for index in range(len(batch["input_ids"]))
    ]


def packed_shares(normalize_by, num_samples=2000, row_length=2048):
    """Return each sample's answer length and its share of an epoch's loss.

    Answers are log-normal, of 66 tokens in the middle, prompts of 10 to 60 tokens.
    """
    rng = np.random.default_rng(0)
    answers = np.clip(rng.lognormal(4.2, 1.2, num_samples), 1, 1500).astype(int)
    prompts = rng.integers(10, 60, num_samples)
    text = text_of(answers + prompts, prompts=prompts.tolist())
    packed = STRATEGIES["adaptive"]([text], row_length, seed=0, pad_token_id=7)
    shares = np.zeros(num_samples)
    for number in range(len(packed._rows)):
        row = packed.row(number, None)
        samples = number_samples(row.weights, row.spans)
        weights = row.weights.astype(np.float64)
        if normalize_by == "row":
            scale = objective.scale_losses(weights, 1.0, "none")
        else:
            per_row = packed.samples_per_row
            scale = objective.scale_samples(weights, samples, 1.0, "none", per_row)
        pieces = packed._rows[packed._order[1][number]]
        documents = [piece.document for piece in pieces]
        shares[documents] += np.bincount(samples, scale)[: len(documents)]
    return answers, shares / len(packed._rows)


def test_every_sample_has_the_same_share_of_the_loss():
    """By row the quarter of the shortest answers has 6 %, as before samples were counted."""
    answers, by_row = packed_shares("row")
    shortest = np.argsort(answers, kind="stable")[: len(answers) // 4]
    assert by_row.sum() == pytest.approx(1.0)
    assert by_row[shortest].sum() == pytest.approx(0.06, abs=0.01)
    _, by_sample = packed_shares("sample")
    np.testing.assert_allclose(by_sample, 1 / len(answers), rtol=1e-9)


@pytest.mark.parametrize("changes", [{}, BLOCKS], ids=["masked", "blocks"])
@pytest.mark.parametrize("loss_weight", ["inverse_t", "none"])
def test_the_loss_is_the_mean_over_samples_by_the_formula(tmp_path, changes, loss_weight):
    """Against a loop over samples, each alone: sum over masked of CE / t, over answer length."""
    text = write_samples(tmp_path)
    trainer = small_trainer(
        tmp_path / "out", SAMPLES, text=text, loss_weight=loss_weight, **changes
    )
    rows, block_length = trainer.data._rows[96], changes.get("block_length")
    per_row, mask = rows.samples_per_row, trainer.model.config.mask_token_id
    ratios_of_rows = []
    for _, (batch,) in trainer._steps():
        expected, place = 0.0, 0
        ids_S, targets_S, scale_S = (
            batch[name].flatten() for name in ("input_ids", "targets", "scale")
        )
        for span in batch["spans"]:
            own = slice(place, place + span)
            place += span
            ids, masked, scale = ids_S[own], targets_S[own], scale_S[own].double()
            answer = scale > 0
            if not answer.any():
                continue
            # 1 / (answer length x samples a row x t) of each token tells its t.
            ratio = 1 / (scale * int(answer.sum()) * per_row)
            if loss_weight == "none":
                torch.testing.assert_close(ratio[answer], torch.ones_like(ratio[answer]))
            if block_length is None:
                assert ratio[answer].unique().numel() == 1  # one t a sample
                ratios_of_rows.append(float(ratio[answer][0]))
                noisy = torch.where(masked, mask, ids)
                logits = trainer.model(noisy[None]).logits[0]
                entropies = F.cross_entropy(logits, ids, reduction="none").double()
            else:
                entropies = block_entropies(trainer.model, ids, masked, block_length, mask)
                for start in range(0, span, block_length):  # one t a block of a sample
                    block = slice(start, start + block_length)
                    assert ratio[block][answer[block]].unique().numel() <= 1
            weights = 1.0 if loss_weight == "none" else 1 / ratio
            loss = (entropies * weights * masked).nan_to_num(0.0, 0.0, 0.0).sum()
            expected += loss.item() / int(answer.sum())
        assert trainer.network(batch).item() == pytest.approx(expected / per_row, rel=2e-4)
    if block_length is None and loss_weight == "inverse_t":
        assert len(set(ratios_of_rows)) == len(ratios_of_rows) > 20
        assert min(ratios_of_rows) >= 0.99e-3


def block_entropies(model, ids, masked, block_length, mask):
    """Return the cross entropies of a sample's tokens, one block after its clean prefix at a time.

    A pass of a block-causal network: blocks see those before them and themselves.
    """
    entropies = torch.zeros(len(ids), dtype=torch.float64)
    for start in range(0, len(ids), block_length):
        block = slice(start, min(start + block_length, len(ids)))
        seen = ids[: block.stop].clone()
        seen[block] = torch.where(masked[block], mask, ids[block])
        logits = model(seen[None]).logits[0, block]
        entropies[block] = F.cross_entropy(logits, ids[block], reduction="none").double()
    return entropies


def test_mask_ratios_of_a_rows_samples_are_spread(tmp_path):
    data = data_of(text=write_samples(tmp_path))
    per_row = data._rows[96].samples_per_row
    for row, spans in zip(rows_of(data), spans_of(data), strict=True):
        scale = row["scale"].double().numpy()
        places = np.cumsum([0, *spans])
        ratios = [
            1.0 / (own[own > 0][0] * (own > 0).sum() * per_row)
            for own in (scale[a:b] for a, b in zip(places, places[1:], strict=False))
            if (own > 0).any()
        ]
        points = (np.sort(ratios) - 1e-3) / (1 - 1e-3) * len(ratios)
        np.testing.assert_allclose(np.diff(points), 1.0, atol=1e-3)
        assert 0 <= points[0] < 1


def test_samples_of_a_step_have_one_grid_of_ratios():
    """Four rows of five samples: 20 ratios, evenly spread; over steps each is uniform."""
    samples = np.repeat(np.arange(5), 3)
    first_samples = []
    for step in range(400):
        found = []
        for place in range(4):
            ratio = objective.draw_mask_ratio(0, step, place, 4, 0.01)
            rng = np.random.default_rng([step, place])
            own = objective.spread_over_samples(ratio, samples, 0.01, rng, spread=True)
            assert (own.reshape(5, 3) == own[::3, None]).all()
            found += own[::3].tolist()
            first_samples.append(own[0])
        np.testing.assert_allclose(np.diff(np.sort(found)), 0.99 / 20, rtol=1e-6)
    counts, _ = np.histogram(first_samples, 10, (0.01, 1.0))
    assert abs(counts - 160).max() < 60
    alone = objective.spread_over_samples(0.3, samples * 0, 0.01, rng, spread=True)
    np.testing.assert_allclose(alone, 0.3)
    loose = objective.spread_over_samples(0.3, samples, 0.01, rng, spread=False)[::3]
    assert loose[0] == pytest.approx(0.3)
    assert np.ptp(np.diff(np.sort(loose))) > 0.05


def spans_of(data):
    from opencompass_llada.finetune.forward import split_rows

    return [
        spans
        for _, loader in data.phases(ranks_of(0, 1))
        for batch in loader
        for spans in split_rows(batch["spans"], 96)
    ]


def test_processes_and_accumulation_change_no_samples_weight(tmp_path):
    text = write_samples(tmp_path)
    data = data_of(text=text)
    whole = rows_of(data)
    halves = [rows_of(data, rank, 2) for rank in (0, 1)]
    ones = rows_of(data_of(text=text, micro_rows=1))
    for name in ("input_ids", "targets", "scale"):
        for step in range(4):
            parts = [row[name] for half in halves for row in half[2 * step : 2 * step + 2]]
            for row, part, one in zip(whole[4 * step :], parts, ones[4 * step :], strict=False):
                assert torch.equal(row[name], part)
                assert torch.equal(row[name], one[name])


def test_no_sample_is_cut_and_none_sees_another(tmp_path):
    """Changing one sample's tokens changes no other's logits, and all of its own."""
    text = write_samples(tmp_path)
    trainer = small_trainer(tmp_path / "out", SAMPLES, text=text)
    rows = trainer.data._rows[96]._rows
    assert sorted(piece.document for row in rows for piece in row) == list(range(40))
    assert all(piece.start == 0 for row in rows for piece in row)
    _, (batch,) = next(trainer._steps())
    batch = {**batch, "targets": torch.zeros_like(batch["targets"])}
    states = []
    for change in (0, 1):
        ids = batch["input_ids"].clone()
        ids[0, 1] += change  # in the first sample
        states.append(trainer.network._diffusion_states(ids, batch).detach())
    differs = (states[0] != states[1]).any(-1)
    first = batch["spans"][0]
    assert differs[0, :first].all()
    assert not differs[0, first:].any()
    assert not differs[1:].any()


def test_a_sample_longer_than_a_row_is_an_error_or_left_out(tmp_path):
    text = write_samples(tmp_path, longest=200, middle=30)
    with pytest.raises(ValueError, match="longer than sequence_length=96.*long_samples: skip"):
        data_of(text=text)
    data = data_of(text=text, long_samples="skip")
    lengths = data.texts[0].lengths + 1
    assert (lengths > 96).any()
    (line,) = data.packing
    assert f"{int((lengths > 96).sum())} samples, longer than a row, are left out" in line
    packed = {piece.document for row in data._rows[96]._rows for piece in row}
    assert packed == set(np.flatnonzero(lengths <= 96))
    phases = [{"sequence_length": 8, "num_steps": 1, "rows_per_step": 1}]
    with pytest.raises(ValueError, match="no tokens .* longer than a row"):
        data_of(text=text, long_samples="skip", phases=phases)


def test_samples_whose_prompts_are_all_empty_are_samples(tmp_path):
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps({"q": "", "text": "la " * 5}) + "\n" for _ in range(9)))
    text = [{"paths": [str(file)], "prompt_field": "q"}]
    data = data_of(text=text, answer_padding={"multiple_of": 16})
    assert {piece.length % 16 for row in data._rows[96]._rows for piece in row} == {0}
    phases = [{"sequence_length": 4, "num_steps": 1, "rows_per_step": 1}]
    with pytest.raises(ValueError, match="9 of 9 samples .* longer than sequence_length=4"):
        data_of(text=text, phases=phases)


class Cutting(STRATEGIES["adaptive"]):
    """Cuts every document in two."""

    def pack(self, lengths, row_length, rng):
        return super().pack(lengths, row_length // 16, rng)


def test_a_strategy_that_cuts_samples_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cuts sample .*strategy=adaptive"):
        data_of(text=write_samples(tmp_path), strategy="test_finetune_samples.Cutting")


def test_worked_examples_of_padding():
    rng, lengths = np.random.default_rng(0), np.array([3, 6, 4])
    for rule, expected in (
        ({"tokens": 2}, [5, 8, 6]),
        ({"multiple_of": 4}, [4, 8, 4]),
        ({"to_length": 5}, [5, 6, 5]),
        ({"batch_of": 3}, [6, 6, 6]),
    ):
        padding = AnswerPadding(**rule)
        assert padded_lengths(lengths, padding, 100, rng).tolist() == expected
        assert padded_lengths(lengths, padding, 7, rng).max() <= 7


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=25),
    rule=st.sampled_from(["tokens", "multiple_of", "to_length", "batch_of"]),
    number=st.integers(1, 32),
)
def test_padding_is_trained_end_tokens_behind_each_answer(lengths, rule, number):
    prompts = [(n + 1) // 2 for n in lengths]
    text = text_of(lengths, prompts=prompts)
    packed = STRATEGIES["adaptive"](
        [text], 32, seed=0, pad_token_id=7, answer_padding=AnswerPadding(**{rule: number})
    )
    seen = []
    for index in range(len(packed._rows)):
        row = packed.row(index, None)
        place = 0
        for span in row.spans:
            ids, weights = (x[place : place + span] for x in (row.input_ids, row.weights))
            place += span
            if not weights.any():
                assert (ids == 7).all()  # the row's own padding
                continue
            document = int(ids[0]) // 1000 - 1
            seen.append(document)
            size = lengths[document]
            assert ids[:size].tolist() == [1000 * (document + 1) + i for i in range(size)]
            assert (ids[size:] == 7).all()
            assert span >= size + 1
            assert weights.tolist() == [0.0] * prompts[document] + [1.0] * (
                span - prompts[document]
            )
            if rule == "tokens":
                assert span == min(size + 1 + number, 32)
            elif rule == "multiple_of":
                assert span == 32 or (span % number == 0 and span < size + 1 + number)
            elif rule == "to_length":
                assert span == max(size + 1, number)
    assert sorted(seen) == list(range(len(lengths)))


def test_padding_needs_an_end_token(tmp_path):
    import dataclasses

    text = dataclasses.replace(text_of([5, 4], prompts=[2, 2]), has_end=False)
    with pytest.raises(ValueError, match="answer_padding: .*no eos_token"):
        STRATEGIES["adaptive"](
            [text], 32, seed=0, pad_token_id=7, answer_padding=AnswerPadding(tokens=1)
        )


def test_a_shortened_row_is_the_row_of_its_first_tokens():
    row = Row(
        input_ids=np.arange(8),
        weights=np.array([0, 1, 1, 1, 0, 1, 1, 1], np.float32),
        spans=(4, 4),
    )
    short = objective.shorten(row, 6, 99)
    assert short.input_ids.tolist() == [0, 1, 2, 3, 4, 5, 99, 99]
    assert short.weights.tolist() == [0, 1, 1, 1, 0, 1, 0, 0]
    assert short.spans == (4, 2, 2)
    assert objective.shorten(row, 4, 99).spans == (4, 4)
    assert objective.shorten(row, 8, 99) is row


@pytest.mark.parametrize("strategy", ["windows", "eod", "adaptive"])
def test_rows_of_random_length(tmp_path, strategy):
    """Their share, lengths uniform from 1 to a row, and their loss, that of the shorter row."""
    phases = [{"sequence_length": 64, "num_steps": 30, "rows_per_step": 8}]
    changes = {"strategy": strategy, "phases": phases, "retrieval_share": 0.0}
    base = {**RECIPE, **changes, "evaluation": {}, "min_mask_ratio": 0.3}
    plain = small_trainer(tmp_path / "plain", base)
    trainer = small_trainer(tmp_path / "out", base, random_length_share=0.5)
    lengths = []
    for (_, (before,)), (_, (batch,)) in zip(plain._steps(), trainer._steps(), strict=True):
        whole, own = before["input_ids"], batch["scale"] > 0
        for index in range(8):
            used, length = before["scale"][index] > 0, int(own[index].sum())
            if length < int(used.sum()):
                lengths.append(length)
                last = int(own[index].nonzero()[-1]) + 1
                assert torch.equal(batch["input_ids"][index, :last], whole[index, :last])
    if strategy == "windows":
        assert 80 < len(lengths) < 160
        assert abs(np.mean(lengths) - 32) < 5
        assert min(lengths) < 8
        row = next(i for i in range(8) if 4 < int(own[i].sum()) < 60)
        length = int(own[row].sum())
        targets, ids = batch["targets"][row, :length], batch["input_ids"][row, :length]
        noisy = torch.where(targets, trainer.model.config.mask_token_id, ids)
        entropies = F.cross_entropy(trainer.model(noisy[None]).logits[0], ids, reduction="none")
        expected = (entropies * batch["scale"][row, :length] * targets).sum()
        only = {**batch, "scale": batch["scale"] * (torch.arange(8) == row)[:, None]}
        torch.testing.assert_close(trainer.network(only), expected, rtol=1e-4, atol=1e-5)
    else:
        assert lengths


@pytest.mark.parametrize("strategy", ["windows", "adaptive"])
def test_rows_of_random_length_have_an_end_of_their_own(tmp_path, strategy):
    """A row whose beginning is given is masked at the end that is left, not at the one cut off."""
    phases = [{"sequence_length": 64, "num_steps": 8, "rows_per_step": 8}]
    changes = {"strategy": strategy, "phases": phases, "retrieval_share": 0.0, "evaluation": {}}
    shares = {"continuation_share": 1.0, "random_length_share": 1.0}
    trainer = small_trainer(tmp_path, {**RECIPE, **changes}, **shares)
    for _, (batch,) in trainer._steps():
        assert bool((batch["scale"] > 0).any(1).all())


@pytest.mark.parametrize("changes", [{}, BLOCKS], ids=["masked", "blocks"])
def test_a_supervised_run_learns_and_goes_on_exactly(tmp_path, changes):
    """Never stopping, against stopping and starting again; answers end where they should."""
    base = {**SAMPLES, "text": write_samples(tmp_path), "answer_padding": {"multiple_of": 8}}
    base |= {**changes, "learning_rate": 1e-2, "probe_every": 5, "log_every": 1}
    base["phases"] = [{"sequence_length": 96, "num_steps": 12, "rows_per_step": 4}]
    whole = small_trainer(tmp_path / "whole", base)
    folder = whole.train()
    losses = [row["loss"] for row in whole.history]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    for _ in range(2):
        trainer = small_trainer(tmp_path / "parts", base)
        for phase, batches in trainer._steps():
            trainer.take_step(phase, batches)
            if trainer.step == 7:
                break
        trainer.index.write()
        trainer.save({})
    assert trainer.step == 12
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name
    index = CheckpointIndex.read(tmp_path / "whole")
    del index.recipe["normalize_by"]  # of a version that normalised by row
    index.write()
    with pytest.raises(ValueError, match="add normalize_by: row to the recipe to go on"):
        small_trainer(tmp_path / "whole", base)
    record = json.loads((folder / "training.json").read_text())
    assert record["recipe"]["normalize_by"] == "sample"
    load_checkpoint(folder)


WORDS = ["red", "blue", "green", "stone", "river", "lamp", "bird", "tree"]


def repetition(rng):
    """Make a task whose answers have one to six words."""
    words = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 6)))
    return {"q": f"Repeat: {words} Answer:", "text": f" {words}"}


@pytest.mark.slow
def test_tiny_llada_learns_answers_of_any_length_from_a_file(tmp_path):
    """Half a minute on a CPU: of 12 answers none is right before, and all but one after.

    32 tokens are sampled for each; what follows the answer is end tokens, which padding trained.
    """
    pytest.importorskip("opencompass")
    from opencompass_llada.wrapper import LLaDACausalLM

    rng = random.Random(0)
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(repetition(rng)) + "\n" for _ in range(400)))
    recipe = {
        "init_from": "asset:tiny-llada",
        "text": [{"paths": [str(file)], "prompt_field": "q"}],
        "strategy": "adaptive",
        "answer_padding": {"multiple_of": 32},
        "phases": [{"sequence_length": 256, "num_steps": 30, "rows_per_step": 4}],
        "learning_rate": 1e-3,
        "warmup_steps": 5,
        "cache_dir": "none",
    }
    folder = small_trainer(tmp_path / "out", recipe).train()
    held_out = [repetition(random.Random(1000 + number)) for number in range(12)]
    assert len({len(task["text"].split()) for task in held_out}) > 3
    right = []
    for path in ("asset:tiny-llada", str(folder)):
        sampler = {"block_length": 32, "num_steps": 32}
        model = LLaDACausalLM(path, sampler=sampler, dtype="float32")
        answers = model.generate([task["q"] for task in held_out], max_out_len=32)
        pairs = zip(answers, held_out, strict=True)
        right.append(sum(answer == task["text"] for answer, task in pairs))
    assert right[0] == 0
    assert right[1] >= 11
