"""The loop: it learns, goes on exactly, keeps the right checkpoints, and stops well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from finetune_runs import RECIPE, SHORT, first_batches, small_recipe, small_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from opencompass_llada.finetune.checkpoints import CheckpointIndex
from opencompass_llada.finetune.measurement import compare_draws, score_figures
from opencompass_llada.finetune.optimizer import learning_rate
from opencompass_llada.networks import load_checkpoint


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_learning_rate_warms_up_and_decays_to_a_tenth():
    recipe = small_recipe()
    rates = [learning_rate(recipe, step) for step in range(recipe.num_steps)]
    assert rates[0] == pytest.approx(recipe.learning_rate / 2)
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[-1] < 0.15 * recipe.learning_rate
    limited = small_recipe(time_limit=100)
    assert learning_rate(limited, 3, 100.0) == pytest.approx(recipe.learning_rate / 10)


@pytest.mark.parametrize("objective", ["masked_diffusion", "autoregressive"])
def test_training_writes_a_checkpoint_that_loads_and_lowers_the_loss(tmp_path, objective):
    trainer = small_trainer(
        tmp_path / "out", objective=objective, learning_rate=1e-2, tensorboard=False
    )
    folder = trainer.train()
    losses = [row["loss"] for row in trainer.history]
    assert losses[-1] < losses[0]
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = trainer.model.eval()(ids).logits
        if objective == "autoregressive":
            model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
            assert model.config.max_position_embeddings == 256
        else:
            model = load_checkpoint(folder, dtype=torch.float32)
            assert model.config.max_sequence_length == 256
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(folder, trust_remote_code=False)("Hello, 42!").input_ids
    record = json.loads((folder / "training.json").read_text())
    assert record["recipe"]["phases"][1]["sequence_length"] == 256
    assert not {"output_dir", "cache_dir"} & record["recipe"].keys()
    lines = (tmp_path / "out" / "logs" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8, 12, 16]


def test_autoregressive_gradients_are_those_of_the_shifted_loss(tmp_path):
    """Against transformers' own loss on a row whose tokens all count."""
    trainer = small_trainer(
        tmp_path, objective="autoregressive", phases=SHORT, retrieval_share=0.0, seed=3
    )
    (batch,) = first_batches(trainer)
    ours = trainer.network(batch) / 4
    ids = batch["input_ids"]
    torch.testing.assert_close(ours, trainer.model(ids, labels=ids).loss, rtol=1e-5, atol=1e-5)


def test_interrupted_training_ends_with_the_same_weights(tmp_path):
    """Stopped by time after every few steps and started again, against never stopping."""
    changes = {"ema_decay": 0.9, "probe_every": 3, "strategy": "adaptive"}
    whole = small_trainer(tmp_path / "whole", **changes)
    whole.train()
    for _ in range(3):
        trainer = small_trainer(tmp_path / "parts", **changes)
        steps = trainer._steps()
        while trainer.step < 16:
            phase, batches = next(steps)
            trainer.take_step(phase, batches)
            if trainer.step in (5, 13):
                break
        trainer.index.write()
        trainer.save({})
    assert trainer.step == 16
    assert_equal(weights_of(whole), weights_of(trainer))
    for name, value in whole.average.weights.items():
        assert torch.equal(value, trainer.average.weights[name])
    final = small_trainer(tmp_path / "parts", **changes)
    assert final.step == 16


RUN = """
import json, sys
from opencompass_llada.finetune.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def start_run(recipe_file, output, repository, wait_for=None):
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(recipe_file), f"output_dir={output}", "num_workers=1"],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while wait_for is not None and not wait_for() and run.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return run


def weights_in(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_kill_9_and_sigterm_then_the_same_command_ends_with_the_same_weights(
    tmp_path, repository_root
):
    recipe = tmp_path / "recipe.yaml"
    phases = [{"sequence_length": 128, "num_steps": 30, "rows_per_step": 4}]
    recipe.write_text(json.dumps({**RECIPE, "phases": phases, "probe_every": 2}))
    changes = {"phases": phases, "probe_every": 2}
    whole = small_trainer(tmp_path / "whole", **changes).train()
    output, index = tmp_path / "parts", tmp_path / "parts" / "checkpoints.json"

    def steps():
        return json.loads(index.read_text())["steps"] if index.is_file() else []

    for number, reached in ((signal.SIGKILL, 4), (signal.SIGTERM, 14)):
        run = start_run(recipe, output, repository_root, lambda n=reached: max(steps() or [0]) >= n)
        os.killpg(run.pid, number)  # the workers that make rows get it, too, as from Slurm
        code = run.wait(60)
        run.stderr.close()
        assert code == (-9 if number == signal.SIGKILL else 143)
        assert 0 < max(steps()) < 30
        load_checkpoint(output / f"step-{max(steps()):06d}")  # whole, whenever it was killed
    last = small_trainer(output, **changes)
    assert 14 <= last.step < 30
    assert_equal(weights_in(whole), weights_in(last.train()))
    lines = (output / "logs" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line)["step"] for line in lines]
    assert logged == sorted(set(logged))


def test_non_finite_loss_stops_before_the_update_with_the_batch_saved(tmp_path):
    trainer = small_trainer(tmp_path / "out")
    trainer.save({})
    with torch.no_grad():
        trainer.model.get_output_embeddings().weight[0, 0] = float("nan")
    before = weights_of(trainer)
    batches = first_batches(trainer)
    with pytest.raises(FloatingPointError, match="nothing was updated"):
        trainer.take_step(trainer.recipe.phases[0], batches)
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)
    (file,) = (tmp_path / "out" / "logs").glob("not-finite-1-*.pt")
    saved = torch.load(file, weights_only=True)
    assert torch.equal(saved["batches"][0]["input_ids"], batches[0]["input_ids"])
    load_checkpoint(trainer.index.last)  # the last good one


def test_accumulating_rows_changes_nothing(tmp_path):
    """Eight rows at once against eight times one row."""
    phases = [{"sequence_length": 128, "num_steps": 3, "rows_per_step": 8}]
    results = []
    for micro in (None, 1):
        trainer = small_trainer(tmp_path / str(micro), phases=phases, micro_rows=micro)
        for phase, batches in trainer._steps():
            assert len(batches) == (1 if micro is None else 8)
            trainer.take_step(phase, batches)
        results.append(weights_of(trainer))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-5)


def test_last_and_best_checkpoints_are_kept(tmp_path):
    index = CheckpointIndex(folder=tmp_path)
    index.path(0).mkdir()  # of a process that was killed before it could drop it
    (tmp_path / "step-notes").mkdir()
    for step, score in enumerate([5.0, 3.0, 4.0, 4.5, None], start=1):
        index.path(step).mkdir()
        figures = {} if score is None else {"perplexity@64": 9.0, "perplexity@128": score}
        index.add(step, figures, keep_last=2)
    again = CheckpointIndex.read(tmp_path)
    assert (again.steps, again.best_step) == ([2, 4, 5], 2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        *(f"step-{step:06d}" for step in (2, 4, 5)),
        "step-notes",
    ]


def test_best_is_of_the_longest_length_wherever_it_stands(tmp_path):
    for figures in (
        {"perplexity@128": 4.0, "perplexity@64": 9.0, "perplexity_error@64": 0.1},
        {"perplexity@64": 9.0, "perplexity@128": 4.0, "pairs@128": 3.0},
    ):
        assert score_figures(figures) == 4.0
    assert score_figures({"pairs@128": 30.0, "copy@128": 50.0}) == -40.0
    assert score_figures({}) is None


def test_best_changes_only_for_more_than_the_error_of_the_masks(tmp_path):
    """Draws whose noise of the masks is far larger than what checkpoints differ by."""
    rng = np.random.default_rng(0)
    masks = rng.normal(3.0, 0.5, 32)
    index = CheckpointIndex(folder=tmp_path)

    def add(step, better, noise=0.01):
        draws = (masks - better + rng.normal(0, noise, 32)).tolist()
        index.add(step, {"perplexity@64": float(np.exp(np.mean(draws)))}, 9, draws)
        return index.best_step

    assert add(1, 0.0) == 1
    assert add(2, 0.02) == 2  # 10 errors of the difference, a quarter of the masks' own error
    assert add(3, 0.02) == 2  # nothing but noise
    assert add(4, 0.0) == 2
    assert add(5, 0.03) == 5
    # With other masks at every step the same differences would drown.
    difference, error = compare_draws(masks, rng.normal(3.0, 0.5, 32))
    assert error > 0.05
    assert compare_draws(masks + 1, masks) == pytest.approx((1.0, 0.0))
    again = CheckpointIndex.read(tmp_path)
    assert again.best_draws == index.best_draws


def test_the_error_of_a_difference_is_that_of_the_draws():
    """Against the spread of many differences; pairs of draws have a mean of their own."""
    rng = np.random.default_rng(1)
    strata, found = rng.normal(0, 3.0, 16), []
    for _ in range(4000):
        draws = np.repeat(strata, 2) + rng.normal(0, 0.5, 32)
        found.append(compare_draws(draws, np.zeros(32)))
    means, errors = np.array(found).T
    assert means.std() == pytest.approx(np.sqrt((errors**2).mean()), rel=0.05)


def test_average_follows_the_weights_and_is_what_is_written(tmp_path):
    trainer = small_trainer(tmp_path / "out", phases=SHORT, ema_decay=0.5, probe_every=100)
    start, steps = weights_of(trainer), []
    for phase, batches in trainer._steps():
        trainer.take_step(phase, batches)
        steps.append(weights_of(trainer))
    folder = trainer.save({})
    for name, value in weights_in(folder).items():
        expected = start[name]
        for weights in steps:
            expected = 0.5 * expected + 0.5 * weights[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert_equal(weights_of(trainer), steps[-1])  # training goes on with the weights themselves


def test_time_limit_ends_training_with_a_final_checkpoint(tmp_path):
    trainer = small_trainer(tmp_path / "out", time_limit=0.01)
    folder = trainer.train()
    assert folder.name == "final"
    assert trainer.step < trainer.recipe.num_steps
    again = small_trainer(tmp_path / "out", time_limit=0.01)
    again.train()  # the same command trains no further
    assert again.step == trainer.step
    assert_equal(weights_of(again), weights_of(trainer))
