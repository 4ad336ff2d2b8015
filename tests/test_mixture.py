"""Sources with weights: shares, epochs, and rows that depend on their number alone."""

from __future__ import annotations

import collections
import dataclasses
import json
import logging

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from finetune_runs import small_recipe, small_trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_finetune_packing import batches_of, same, text_of

from opencompass_llada.finetune.checkpoints import CheckpointIndex
from opencompass_llada.finetune.mixture import Mixture, Shares
from opencompass_llada.finetune.packing import STRATEGIES
from opencompass_llada.finetune.rows import TrainingData
from opencompass_llada.finetune.tokens import make_tokenizer
from opencompass_llada.synthetic.grammar import generate_documents


@settings(max_examples=100, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.1, 0.25, 0.3, 1.0, 7.0, 100.0]), min_size=1, max_size=6),
    number=st.integers(0, 10**9),
)
def test_every_number_goes_to_one_source_in_proportion(weights, number):
    shares = Shares(weights)
    before, after = shares.counts(number), shares.counts(number + 1)
    assert sum(before) == number
    steps = sorted(b - a for a, b in zip(before, after, strict=True))
    assert steps == [0] * (len(weights) - 1) + [1]
    source, place = shares.place(number)
    assert (before[source], after[source]) == (place, place + 1)
    exact = [number * weight / sum(weights) for weight in weights]
    assert np.allclose(before, exact, rtol=1e-12, atol=max(1, len(weights) / 2))


def test_shares_are_exact_and_spread():
    shares = Shares([1.0, 3.0])
    dealt = [shares.place(number) for number in range(8)]
    assert [source for source, _ in dealt] == [1, 0, 1, 1, 1, 0, 1, 1]
    assert [place for source, place in dealt if source == 1] == [0, 1, 2, 3, 4, 5]
    assert Shares([0.1, 0.2]).counts(3 * 10**9) == [10**9, 2 * 10**9]


@pytest.mark.parametrize("strategy", ["adaptive", "eod", "direct"])
def test_a_small_source_repeats_and_a_large_one_does_not(strategy):
    texts = [text_of([8] * 4), text_of([8] * 40)]
    parts = [STRATEGIES[strategy]([text], 8, seed=0, pad_token_id=7) for text in texts]
    mixture = Mixture(parts, [1.0, 1.0])
    rows = [mixture.row(number, None) for number in range(40)]
    first = [mixture._shares.place(number)[0] for number in range(40)]
    assert first.count(0) == first.count(1) == 20
    used = [collections.Counter(), collections.Counter()]
    for source, row in zip(first, rows, strict=True):
        used[source][tuple(row.input_ids.tolist())] += 1
    num_small = len(parts[0]._rows)  # each of its rows, again and again
    assert len(used[0]) == num_small
    assert max(used[0].values()) - min(used[0].values()) <= 1
    assert set(used[1].values()) == {1}
    assert mixture.epochs(40) == [20 / num_small, 20 / len(parts[1]._rows)]


def write_sources(folder):
    """Return two sources, a Parquet file of two row groups and JSON lines."""
    made = [list(generate_documents(seed, 6)) for seed in (21, 22)]
    table = pyarrow.Table.from_pylist(made[0])
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=3)
    lines = "".join(json.dumps(row) + "\n" for row in made[1])
    (folder / "b.jsonl").write_text(lines)
    return [
        {"paths": [str(folder / "a.parquet")], "weight": 3.0},
        {"paths": [str(folder / "b.jsonl")], "weight": 1.0},
    ]


PHASES = [
    {"sequence_length": 128, "num_steps": 4, "rows_per_step": 4},
    {"sequence_length": 256, "num_steps": 2, "rows_per_step": 4},
    {"sequence_length": 128, "num_steps": 2, "rows_per_step": 4},
]


def recipe_of(folder, **changes):
    chosen = {
        "text": write_sources(folder),
        "phases": PHASES,
        "retrieval_share": 0.25,
        "strategy": "adaptive",
        "cache_dir": str(folder / "cache"),
        "evaluation": {"retrieval_rows": 0},
    }
    return {**chosen, **changes}


def data_of(recipe):
    return TrainingData(recipe, make_tokenizer(recipe))


def test_rows_of_a_mixture_are_a_function_of_their_number(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = data_of(small_recipe(**recipe_of(tmp_path)))
    whole = batches_of(data)
    assert len(whole) == 8
    for first_step in (1, 5, 7):
        assert all(map(same, whole[first_step:], batches_of(data, first_step=first_step)))
    for changes in ({"num_workers": 2}, {"cache_dir": "none", "tokenizing_processes": 3}):
        other = data_of(small_recipe(**recipe_of(tmp_path, **changes)))
        assert all(map(same, whole, batches_of(other)))
    halves = [batches_of(data, rank=rank, world=2) for rank in range(2)]
    for step, parts in enumerate(zip(*halves, strict=True)):
        assert torch.equal(
            whole[step]["input_ids"], torch.cat([part["input_ids"] for part in parts])
        )
    other = data_of(small_recipe(**recipe_of(tmp_path, text=write_sources(tmp_path)[::-1])))
    assert not all(map(same, whole, batches_of(other)))
    # 24 rows of 128 and 8 of 256, a quarter of each retrieval, three quarters of source 1.
    sizes = [[len(part._rows) for part in data._rows[n]._parts] for n in (128, 256)]
    expected = [
        sum((r * s) / n[i] for r, n in zip((18, 6), sizes, strict=True))
        for i, s in enumerate((0.75, 0.25))
    ]
    made = list(data.epochs(8).values())
    assert made == pytest.approx(expected, rel=0.3)
    assert "Text source 1, 75.0 % of the text rows. Packing adaptive: 6 documents" in caplog.text
    assert f"epochs_2 at the end of the run: {made[1]:.2f}" in caplog.text
    assert data.epochs(0) == {"epochs_1": 0.0, "epochs_2": 0.0}


@pytest.mark.parametrize(
    ("strategy", "weights", "names"),
    [
        ("adaptive", [None, None], {"epochs"}),
        ("direct", [2.0, None], {"epochs_1", "epochs_2"}),
        ("windows", [2.0, None], set()),
    ],
)
def test_sources_without_weights_are_packed_together(tmp_path, strategy, weights, names):
    text = write_sources(tmp_path)
    for source, weight in zip(text, weights, strict=True):
        source["weight"] = weight
    data = data_of(small_recipe(**recipe_of(tmp_path, text=text, strategy=strategy)))
    assert data.epochs(8).keys() == names
    assert isinstance(data._rows[128], Mixture) == ("epochs_1" in names)


def test_going_on_over_a_mixture_gives_the_same_weights(tmp_path):
    """Stopped in the second phase, with another number of processes: equal bit for bit."""

    def trainer_in(name, **changes):
        return small_trainer(tmp_path / name, **recipe_of(tmp_path, log_every=1, **changes))

    whole = trainer_in("whole")
    whole.train()
    trainer = trainer_in("parts")
    for phase, batches in trainer._steps():
        trainer.take_step(phase, batches)
        if trainer.step == 5:
            break
    trainer.index.write()
    trainer.save({})
    again = trainer_in("parts", tokenizing_processes=2, num_workers=1, cache_dir="none")
    assert again.step == 5
    again.train()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert whole.history[-1]["epochs_1"] == again.history[-1]["epochs_1"] > 0
    text = [{**source, "weight": 1.0} for source in write_sources(tmp_path)]
    with pytest.raises(ValueError, match="another recipe .text"):
        trainer_in("parts", text=text)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0)])
def test_a_run_of_a_version_whose_weights_were_1_by_default_goes_on(tmp_path, weights):
    sources = [{"generated_seed": seed, "num_documents": 1} for seed in (7, 8)]
    recipe = small_recipe(text=sources)
    earlier = json.loads(json.dumps(dataclasses.asdict(recipe)))
    del earlier["tokenizing_processes"]
    for source, weight in zip(earlier["text"], weights, strict=True):
        source["weight"] = weight
    index = CheckpointIndex(folder=tmp_path, steps=[1], recipe=earlier)
    if weights == (1.0, 1.0):
        index.begin(recipe)
    else:
        with pytest.raises(ValueError, match="another recipe .text"):
            index.begin(recipe)


@pytest.mark.parametrize(
    ("strategy", "weights", "goes_on"),
    [("windows", (1.0, 3.0), True), ("adaptive", (2.0,), True), ("adaptive", (1.0, 3.0), False)],
)
def test_a_recipe_that_states_its_weights_goes_on_where_they_do_the_same(
    tmp_path, strategy, weights, goes_on
):
    sources = [{"generated_seed": seed, "num_documents": 1} for seed in (7, 8)]
    text = [{**source, "weight": w} for source, w in zip(sources, weights, strict=False)]
    recipe = small_recipe(text=text, strategy=strategy, retrieval_share=0.0)
    earlier = json.loads(json.dumps(dataclasses.asdict(recipe)))
    del earlier["tokenizing_processes"]
    index = CheckpointIndex(folder=tmp_path, steps=[1], recipe=earlier)
    if goes_on:
        index.begin(recipe)
    else:  # rows were packed from all sources together
        with pytest.raises(ValueError, match="another recipe .text"):
            index.begin(recipe)
