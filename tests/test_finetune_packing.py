"""Packing: what is in each row, what attends to what; rows depend on their number alone."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from finetune_runs import RECIPE, SHORT, ranks_of, small_recipe
from hypothesis import given, settings
from hypothesis import strategies as st

from opencompass_llada.finetune.packing import (
    STRATEGIES,
    DocumentSlice,
    TokenizedText,
)

PACKED = ("adaptive", "eod", "direct")


def text_of(lengths, prompts=None):
    """Return documents whose tokens tell document and place: 1000 * document + place; end 7."""
    parts = [[1000 * (d + 1) + i for i in range(n)] + [7] for d, n in enumerate(lengths)]
    return TokenizedText(
        tokens=np.concatenate(parts).astype(np.int32),
        ends=np.cumsum([len(part) for part in parts]),
        prompt_lengths=np.array(prompts or [0] * len(lengths), np.int32),
    )


def packed_of(lengths, row_length, strategy, seed=0):
    return STRATEGIES[strategy]([text_of(lengths)], row_length, seed=seed, pad_token_id=7)


def test_worked_example():
    packed = packed_of([7, 3, 2, 4, 1], 4, "adaptive", seed=0)
    rows = packed._rows
    expected = [
        [DocumentSlice(0, 0, 4)],
        [DocumentSlice(3, 0, 4)],
        [DocumentSlice(0, 4, 7), DocumentSlice(4, 0, 1)],
        [DocumentSlice(1, 0, 3)],
        [DocumentSlice(2, 0, 2)],
    ]
    assert sorted(rows) == sorted(expected)
    assert packed.describe() == (
        "Packing adaptive: 5 documents (17 tokens) in 5 rows of 4; 1 rows hold several pieces, 1 "
        "documents are cut, 3 tokens (15.0 %) are padding"
    )


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    row_length=st.integers(1, 24),
    strategy=st.sampled_from(PACKED),
)
def test_every_token_is_in_one_row_once(lengths, row_length, strategy):
    packed = packed_of(lengths, row_length, strategy, seed=1)
    rows = packed._rows
    seen = collections.Counter(
        (piece.document, place)
        for row in rows
        for piece in row
        for place in range(piece.start, piece.stop)
    )
    assert set(seen) == {
        (d, i) for d, n in enumerate(lengths) for i in range(n + packed.keeps_ends)
    }
    assert set(seen.values()) == {1}
    sizes = [sum(piece.length for piece in row) for row in rows]
    assert max(sizes) <= row_length
    assert f", {sum(row_length - size for size in sizes)} tokens (" in packed.describe()
    if strategy == "adaptive":  # whatever fits a row is whole
        whole = {d for d, n in enumerate(lengths) if n <= row_length}
        assert {p.document for row in rows for p in row if p.start} <= set(range(99)) - whole
    else:  # only the last row has padding
        assert sizes.count(row_length) >= len(rows) - 1


@pytest.mark.parametrize(
    ("strategy", "has_prompt"), [*((name, False) for name in PACKED), ("adaptive", True)]
)
def test_rows_hold_their_documents_tokens(strategy, has_prompt):
    text = text_of([5, 9 - 2 * has_prompt, 3], prompts=[0, 4 * has_prompt, 0])
    packed = STRATEGIES[strategy]([text], 8, seed=0, pad_token_id=7, restart_positions=True)
    rows = [packed.row(number, None) for number in range(len(packed._rows))]
    tokens = np.concatenate([row.input_ids for row in rows])
    real = tokens[tokens != 7]
    assert sorted(real) == sorted(t for t in text.tokens if t != 7)
    num_padding = int(packed.describe().split(" documents are cut, ")[1].split()[0])
    ends = int((tokens == 7).sum()) - num_padding
    # Between documents under eod alone, and after the answer to a prompt in any case.
    assert ends == (3 if has_prompt or strategy == "eod" else 0)
    for row in rows:
        assert sum(row.spans) == len(row.input_ids) == 8
        for token, weight in zip(row.input_ids, row.weights, strict=True):
            document, place = divmod(int(token), 1000)
            if token != 7:
                assert weight == (0.0 if document == 2 and place < 4 * has_prompt else 1.0)
        new = np.diff(row.input_ids // 1000, prepend=-1) != 0
        assert (row.positions[new & (row.input_ids != 7)] == 0).all()


def test_padding_is_attended_by_nothing_real_and_never_trained_on():
    packed = STRATEGIES["direct"]([text_of([5, 2])], 8, seed=0, pad_token_id=7)
    (row,) = [packed.row(0, None)]
    assert row.spans == (7, 1)
    assert row.weights.tolist() == [1.0] * 7 + [0.0]
    packed = STRATEGIES["adaptive"]([text_of([5, 2])], 8, seed=0, pad_token_id=7)
    assert packed.row(0, None).spans == (5, 2, 1)


def test_an_epoch_is_every_row_once_in_another_order():
    packed = STRATEGIES["adaptive"]([text_of([8] * 20)], 8, seed=0, pad_token_id=7)
    epochs = [
        [int(packed.row(epoch * 20 + place, None).input_ids[0]) for place in range(20)]
        for epoch in range(3)
    ]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_end_of_document_strategy_needs_the_token():
    text = text_of([3])
    without = TokenizedText(
        tokens=text.tokens[:3], ends=np.array([3]), prompt_lengths=np.array([0]), has_end=False
    )
    with pytest.raises(ValueError, match="eos_token"):
        STRATEGIES["eod"]([without], 8, seed=0, pad_token_id=0)
    assert STRATEGIES["direct"]([without], 8, seed=0, pad_token_id=0).row(0, None).spans == (3, 5)


@pytest.fixture(scope="module")
def data():
    """Data of a recipe that mixes packed documents and retrieval rows."""
    from opencompass_llada.finetune.rows import TrainingData
    from opencompass_llada.finetune.tokens import make_tokenizer

    recipe = small_recipe(strategy="adaptive", phases=[SHORT[0], RECIPE["phases"][1], SHORT[0]])
    return TrainingData(recipe, make_tokenizer(recipe))


def batches_of(data, **how):
    return [
        batch
        for _, loader in data.phases(ranks_of(how.pop("rank", 0), how.pop("world", 1)), **how)
        for batch in loader
    ]


def same(first, second):
    return all(
        torch.equal(first[name], second[name])
        if isinstance(first[name], torch.Tensor)
        else first[name] == second[name]
        for name in first
    )


def test_resuming_anywhere_gives_the_same_batches(data):
    whole = batches_of(data)
    assert len(whole) == 12
    for first_step in (1, 4, 6, 11):
        resumed = batches_of(data, first_step=first_step)
        assert len(resumed) == 12 - first_step
        assert all(map(same, whole[first_step:], resumed))
    assert not same(whole[0], whole[1])


def test_ranks_together_have_the_rows_of_one(data):
    whole = batches_of(data)
    halves = [batches_of(data, rank=rank, world=2) for rank in (0, 1)]
    for step, parts in enumerate(zip(*halves, strict=True)):
        for name in ("input_ids", "targets", "scale"):
            assert torch.equal(whole[step][name], torch.cat([part[name] for part in parts]))


def test_two_phases_of_one_length_have_different_rows(data):
    whole = batches_of(data)
    rows = [tuple(row.tolist()) for batch in whole[:4] + whole[8:] for row in batch["input_ids"]]
    assert len(rows) == len(set(rows)) == 32


def test_padding_and_prompts_are_never_predicted(data):
    padded = 0
    for batch in batches_of(data):
        spans = batch["spans"] or (batch["input_ids"].shape[1],) * len(batch["input_ids"])
        assert sum(spans) == batch["input_ids"].numel()
        assert not (batch["targets"] & (batch["scale"] == 0)).any()
        padded += int((batch["scale"] == 0).sum())
    assert padded > 0


@pytest.mark.parametrize("strategy", ["eod", "windows"])
def test_continuation_rows_are_text_rows_with_their_end_alone_masked(strategy):
    from opencompass_llada.finetune.rows import TrainingData
    from opencompass_llada.finetune.tokens import make_tokenizer

    made = {}
    for share in (0.0, 1.0):
        # The phase's own share goes before the recipe's.
        phases = [{**SHORT[0], "continuation_share": share}]
        recipe = small_recipe(strategy=strategy, phases=phases, continuation_share=0.5)
        made[share] = batches_of(TrainingData(recipe, make_tokenizer(recipe)))
    for whole, ended in zip(made[0.0], made[1.0], strict=True):
        assert torch.equal(whole["input_ids"], ended["input_ids"])
        for before, after in zip(whole["scale"], ended["scale"], strict=True):
            if bool((before > 0).all()):  # a text row, or a retrieval row that is masked like one
                kept = torch.nonzero(after > 0).flatten()
                assert kept[-1] == 127
                assert len(kept) in {*range(16, 65), 128}
                assert torch.equal(kept, torch.arange(128 - len(kept), 128))
            else:
                assert torch.equal(before > 0, after > 0)
    lengths = [int((row > 0).sum()) for batch in made[1.0] for row in batch["scale"]]
    assert sum(16 <= length <= 64 for length in lengths) >= 8
