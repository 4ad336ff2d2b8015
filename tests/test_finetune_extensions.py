"""A packing strategy and task rows that another package adds: one file each, named by a recipe."""

from __future__ import annotations

import sys

import pytest
import torch
from finetune_runs import RECIPE, SHORT, first_batches, small_recipe, small_trainer

from opencompass_llada.finetune.packing import find_strategy

STRATEGY = """
import numpy as np
from opencompass_llada.finetune.packing import DocumentSlice, PackingStrategy


class FirstHalves(PackingStrategy):
    '''One document a row, which weighs half as much and counts positions by twos.'''

    attends_documents = True

    def pack(self, lengths, row_length, rng):
        return [[DocumentSlice(n, 0, min(length, row_length // 2))]
                for n, length in enumerate(lengths)]

    def positions(self, pieces):
        return 2 * super().positions(pieces)

    def weights(self, piece, prompt_length):
        return super().weights(piece, prompt_length) / 2
"""

ROWS = """
import numpy as np
from opencompass_llada.finetune.packing import Row


class Counting:
    '''Rows that count from a number on; for evaluation from an odd one.'''

    STYLES = {"up": 1, "down": 0}
    SHORTEST = 8

    def __init__(self, windows, tokens, styles):
        self.styles, self.end = dict(styles), tokens.end_token_id

    def make(self, length, rng, *, evaluation=False, style=None):
        start = 2 * rng.randrange(50) + 10 + evaluation
        ids = np.arange(start, start + length) % 390 + 5
        ids[-1] = self.end
        return Row(input_ids=ids, weights=np.ones(length, np.float32))
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Two modules of another package."""
    for name, text in (("toy_strategy", STRATEGY), ("toy_rows", ROWS)):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "out"


def test_a_strategy_from_outside_trains(outside):
    changes = {"strategy": "toy_strategy.FirstHalves", "retrieval_share": 0.0, "phases": SHORT}
    trainer = small_trainer(outside, loss_weight="none", **changes)
    (batch,) = first_batches(trainer)
    assert batch["spans"] == (64, 64) * 4
    assert torch.equal(batch["positions"][0, :64], 2 * torch.arange(64))
    assert not batch["targets"][:, 64:].any()
    assert batch["targets"][:, :64].any()
    assert "Packing FirstHalves: 8 documents" in trainer.data.packing[0]
    trainer.train()
    assert len(trainer.history) == 1


def test_task_rows_from_outside_are_trained_on_and_measured(outside):
    trainer = small_trainer(outside, rows="toy_rows.Counting", retrieval_share=1.0, phases=SHORT)
    (batch,) = first_batches(trainer)
    assert (batch["input_ids"][:, 0] % 2 == 1).all()
    assert trainer.recipe.retrieval_styles == {"up": 1, "down": 0}
    trainer.train()
    measured = {name for name in trainer.history[-1] if "@" in name}
    assert measured == {"up@128"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strategy": "toy_strategy.Nothing"}, "Unknown strategy 'toy_strategy.Nothing'"),
        ({"strategy": "toy_rows.Counting"}, "Unknown strategy"),
        ({"rows": "toy_rows.nothing"}, "must be the dotted path of a class with STYLES"),
        ({"rows": "toy_rows.Counting", "retrieval_styles": {"upp": 1}}, "Did you mean 'up'"),
    ],
)
def test_wrong_names_are_refused(outside, change, words):
    with pytest.raises(ValueError, match=words):
        small_recipe(RECIPE, **change)


def test_a_strategy_whose_module_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_strategy.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"broken_strategy\.Mine.*a_package_that_is_not_there"):
        find_strategy("broken_strategy.Mine")
    with pytest.raises(ValueError, match="no_such_module.Mine"):
        find_strategy("no_such_module.Mine")
