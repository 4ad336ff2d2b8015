"""Which keys of a recipe may differ when a run goes on: those that change no weight."""

from __future__ import annotations

import re

import pytest
import torch
from finetune_runs import LONGER, SHORT, small_trainer
from tiny import write_tiny_checkpoint

from opencompass_llada.finetune import resources
from opencompass_llada.finetune.checkpoints import MAY_DIFFER

KEPT = {"activation_checkpointing": True, "keep_attention": True, "keep_projections": True}
#: Keys of how a step is computed -> how a run that began with the defaults goes on.
COMPUTED = {
    "activation_checkpointing": {"activation_checkpointing": True},
    "keep_attention": {"activation_checkpointing": True, "keep_attention": True},
    "keep_projections": KEPT,
    "keep_mlp": {**KEPT, "keep_mlp": 1},
    "offload_checkpoints": {"activation_checkpointing": True, "offload_checkpoints": True},
    "mlp_tile": {"mlp_tile": 100},
    "loss_chunk": {"loss_chunk": 7},
    "micro_rows": {"micro_rows": 1},
    "memory_limit": {"memory_limit": 1000.0},
    "host_memory_limit": {"host_memory_limit": 1000.0},
    "num_workers": {"num_workers": 1},
    "probe_every": {"probe_every": 1},
    "log_every": {"log_every": 1},
    "time_limit": {"time_limit": 1e9},
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Return a checkpoint's path, and a run's weights after each of four steps."""
    folder = tmp_path_factory.mktemp("begun")
    path = write_tiny_checkpoint(folder / "model", max_sequence_length=128)
    trainer = trainer_in(folder / "whole", path)
    trainer.train()
    return path, weights_of(trainer)


def trainer_in(folder, path, **changes):
    base = {**LONGER, "phases": SHORT, "init_from": str(path), "evaluation": {"retrieval_rows": 0}}
    return small_trainer(folder, base, **changes)


def weights_of(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def interrupted(folder, path):
    """Stop a run after two of its four steps."""
    trainer = trainer_in(folder, path)
    for phase, batches in trainer._steps():
        trainer.take_step(phase, batches)
        if trainer.step == 2:
            break
    trainer.index.write()
    trainer.save({})


@pytest.mark.parametrize("key", COMPUTED)
def test_a_key_that_may_differ_changes_no_weight(key, begun, tmp_path):
    path, whole = begun
    assert key in MAY_DIFFER
    interrupted(tmp_path, path)
    trainer = trainer_in(tmp_path, path, **COMPUTED[key])
    assert trainer.step == 2
    trainer.train()
    for name, value in weights_of(trainer).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("change", [{"clip_norm": 0.5}, {"dtype": "bfloat16"}, {"seed": 1}])
def test_a_key_that_decides_weights_or_files_may_not(change, begun, tmp_path):
    path, _ = begun
    interrupted(tmp_path, path)
    with pytest.raises(ValueError, match=f"another recipe .{next(iter(change))}: "):
        trainer_in(tmp_path, path, **change)


def test_settings_that_the_memory_plan_proposes_may_differ():
    """Or its remedy would be refused in the folder of the run that lacked memory."""
    source = re.findall(r'\("(\w+)", [^,]+, recipe\.|\("(\w+)", True, not', open_source(resources))
    proposed = {name for pair in source for name in pair if name}
    assert {"keep_attention", "mlp_tile", "loss_chunk", "micro_rows"} <= proposed <= MAY_DIFFER


def open_source(module):
    with open(module.__file__, encoding="utf-8") as file:
        return file.read()


def test_the_documentation_names_exactly_these_keys(repository_root):
    page = (repository_root / "docs/reference/recipe.md").read_text(encoding="utf-8")
    listed = page.partition("<!-- may differ -->")[2].partition("<!-- end -->")[0]
    assert set(re.findall(r"`([\w.]+)`", listed)) == MAY_DIFFER
