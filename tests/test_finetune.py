"""Training: recipe checks, rows, the objective, the loop, and what it writes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from opencompass_llada.finetune import saving
from opencompass_llada.finetune.__main__ import main
from opencompass_llada.finetune.loop import Trainer, _batches, learning_rate
from opencompass_llada.finetune.objective import diffusion_loss, draw_mask_ratios, mask_rows
from opencompass_llada.finetune.recipe import SHORTEST_ROW, TextSource, load_recipe, parse_recipe
from opencompass_llada.finetune.retrieval import RetrievalRows
from opencompass_llada.finetune.rows import TrainingRows, row_loader
from opencompass_llada.finetune.text import TokenWindows, read_texts
from opencompass_llada.finetune.tokenizer import train_tokenizer
from opencompass_llada.modeling import load_checkpoint
from opencompass_llada.synthetic import generate_documents
from opencompass_llada.synthetic.needles import held_out, make_needle

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPE = {
    "output_dir": "unused",
    "model": {"d_model": 32, "n_heads": 1, "n_layers": 2, "mlp_hidden_size": 48},
    "vocab_size": 400,
    "text": [{"generated_seed": 7, "num_documents": 8}],
    "phases": [
        {"sequence_length": 128, "num_steps": 12, "rows_per_step": 8},
        {"sequence_length": 256, "num_steps": 4, "rows_per_step": 4},
    ],
    "warmup_steps": 2,
    "log_every": 4,
    "probe_every": 8,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def sources():
    """Windows, retrieval rows and tokenizer over generated text."""
    source = TextSource(generated_seed=7, num_documents=8)
    tokenizer = train_tokenizer(read_texts(source), 400)
    windows = TokenWindows([source], lambda texts: tokenizer(list(texts)).input_ids, 0)
    return windows, RetrievalRows(windows, lambda text: tokenizer(text).input_ids, 0), tokenizer


def test_shipped_recipe_is_valid():
    recipe = load_recipe(REPOSITORY / "configs/finetune/tiny_pretrain.yaml", ["seed=3"])
    assert (recipe.seed, recipe.trained_length) == (3, 512)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learing_rate": 1.0}, ["learing_rate", "learning_rate"]),
        ({"text": []}, ["text", "at least one"]),
        ({"retrieval_share": 2}, ["2", "0 to 1"]),
        ({"min_mask_ratio": 0}, ["0", "above 0"]),
        ({"dtype": "int8"}, ["int8", "bfloat16"]),
        (
            {"phases": [{"sequence_length": 128, "num_steps": 0, "rows_per_step": 1}]},
            ["num_steps=0"],
        ),
        ({"phases": [{"sequence_length": 128}]}, ["num_steps", "must be given"]),
        ({"text": [{"paths": ["a"], "generated_seed": 1}]}, ["exactly one"]),
        ({"learning_rate": "3e-3"}, ["learning_rate='3e-3'", "3.0e-3"]),
        ({"learning_rate": 0}, ["learning_rate=0", "above 0"]),
        ({"log_every": 0}, ["log_every=0", "from 1"]),
        ({"betas": 0.9}, ["betas=0.9", "two numbers"]),
        ({"text": 5}, ["text=5", "list of mappings"]),
        ({"text": [{"generated_seed": 0, "num_documents": 1}]}, ["embedded haystack"]),
        ({"probe_every": 2.5}, ["probe_every=2.5", "whole number"]),
        ({"model": {"dmodel": 32}}, ["dmodel", "Did you mean 'd_model'"]),
        ({"model": {"vocab_size": 32}}, ["vocab_size"]),
        (
            {"phases": [{"sequence_length": 64, "num_steps": 1, "rows_per_step": 1}]},
            ["sequence_length=64", "at least"],
        ),
    ],
)
def test_wrong_recipes_are_refused(change, words):
    with pytest.raises(ValueError, match=".") as error:
        parse_recipe({**RECIPE, **change})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_missing_recipe_and_missing_text_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="no file matches"):
        list(read_texts(TextSource(paths=(str(tmp_path / "*.jsonl"),))))
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(ValueError, match="text_field"):
        list(read_texts(TextSource(paths=(str(tmp_path / "*.jsonl"),))))


@pytest.mark.parametrize("style", ["needlebench", "question", "prefix", "pairs", "copy"])
def test_answers_can_be_found_in_the_text_before_them(sources, style):
    _, retrieval, tokenizer = sources
    for seed in range(20):
        row = retrieval.make(512, random.Random(seed), style=style)
        assert len(row.input_ids) == len(row.weights) == 512
        (answer,) = np.nonzero(row.weights == 1.0)
        starts = answer[np.diff(answer, prepend=-2) > 1]
        ends = answer[np.diff(answer, append=10**9) > 1] + 1
        for start, end in zip(starts, ends, strict=True):
            ids = row.input_ids[start:end]
            text = tokenizer.decode(ids[ids != 0]).strip().rstrip(".")
            assert text in tokenizer.decode(row.input_ids[:start]), (style, seed, text)


def test_evaluation_keys_are_never_trained_on(sources):
    _, retrieval, _ = sources
    for evaluation in (False, True):
        rng = random.Random(0)
        needles = [n for _ in range(50) for n in retrieval._needles(rng, evaluation)]
        assert {held_out(needle) for needle in needles} == {evaluation}
    share = np.mean([held_out(make_needle(random.Random(i), "password")) for i in range(2000)])
    assert 0.08 < share < 0.17


def test_rows_depend_on_their_number_alone(sources):
    windows, retrieval, _ = sources
    recipe = parse_recipe(RECIPE)
    phase = recipe.phases[0]
    rows = TrainingRows(recipe, phase, windows, retrieval)
    whole = list(row_loader(rows, phase, num_workers=0))
    resumed = list(row_loader(rows, phase, num_workers=0, first_step=5))
    assert len(whole) == phase.num_steps
    for name in ("input_ids", "weights", "mask_all"):
        assert torch.equal(whole[5][name], resumed[0][name])
    assert not torch.equal(whole[5]["input_ids"], whole[6]["input_ids"])


def test_two_phases_of_one_length_have_different_rows(sources):
    windows, retrieval, _ = sources
    phase = {"sequence_length": 128, "num_steps": 3, "rows_per_step": 2}
    recipe = parse_recipe({**RECIPE, "phases": [phase, phase]})
    rows = [
        tuple(row.tolist())
        for _, batch in _batches(recipe, windows, retrieval)
        for row in batch["input_ids"]
    ]
    assert len(rows) == len(set(rows)) == 12


@pytest.mark.parametrize("style", ["needlebench", "question", "prefix", "pairs", "copy"])
def test_the_shortest_row_allowed_can_be_made(sources, style):
    for seed in range(200):
        row = sources[1].make(SHORTEST_ROW, random.Random(seed), style=style)
        assert len(row.input_ids) == SHORTEST_ROW


def test_line_separators_inside_a_json_string_stay_in_it(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\u2028b\x85c"}\n\n{"text": "d"}', "utf-8")
    source = TextSource(paths=(str(tmp_path / "a.jsonl"),))
    assert list(read_texts(source)) == ["a\u2028b\x85c", "d"]
    (tmp_path / "a.jsonl").write_text('{"text": "d"}\n{"text": ')
    with pytest.raises(ValueError, match="line 2 of .*a.jsonl"):
        list(read_texts(source))


def test_output_folder_with_other_files_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**RECIPE, "output_dir": str(tmp_path)}))
    with pytest.raises(SystemExit) as stop:
        main([str(recipe)])
    assert stop.value.code == 2
    assert "would delete them" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    recipe = parse_recipe({**RECIPE, "output_dir": str(tmp_path / "out")})
    trainer = Trainer(recipe)
    folder = trainer.save(0.0)
    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(saving, "_name_tokenizer_class", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.save(1.0)
    assert (folder / "model.safetensors").read_bytes() == before
    monkeypatch.undo()
    assert json.loads((trainer.save(2.0) / "training.json").read_text())["seconds"] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_mask_ratios_are_spread_evenly():
    generator = torch.Generator().manual_seed(0)
    ratios = draw_mask_ratios(64, 0.1, generator)
    gaps = ratios.sort().values.diff()
    assert ratios.min() >= 0.1
    assert ratios.max() <= 1.0
    torch.testing.assert_close(gaps, torch.full((63,), 0.9 / 64), rtol=1e-3, atol=1e-5)


def test_masking_touches_weighted_positions_alone_and_all_when_asked():
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(40).reshape(2, 20)
    weights = torch.zeros(2, 20)
    weights[:, 10:] = 1.0
    noisy, masked, ratios = mask_rows(ids, weights, torch.tensor([True, False]), 99, 0.1, generator)
    assert torch.equal(noisy[:, :10], ids[:, :10])
    assert masked[0, 10:].all()
    assert ratios[0] == 1.0
    assert torch.equal(noisy == 99, masked)


def test_loss_is_the_published_objective_for_uniform_weights():
    """Against Eq. 3 of arXiv 2502.09992 written out in loops."""
    torch.manual_seed(0)
    ids = torch.randint(0, 5, (3, 7))
    logits = torch.randn(3, 7, 5)
    masked = torch.rand(3, 7) < 0.5
    ratios = torch.tensor([0.3, 0.5, 0.9])
    expected = 0.0
    for b in range(3):
        for i in range(7):
            if masked[b, i]:
                expected -= float(logits[b, i].log_softmax(-1)[ids[b, i]]) / float(ratios[b]) / 7
    ours = diffusion_loss(logits[masked], ids, torch.ones(3, 7), masked, ratios)
    assert float(ours) == pytest.approx(expected / 3, rel=1e-5)


def test_learning_rate_warms_up_and_decays_to_a_tenth():
    recipe = parse_recipe(RECIPE)
    rates = [learning_rate(recipe, step) for step in range(recipe.num_steps)]
    assert rates[0] == pytest.approx(recipe.learning_rate / 2)
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[-1] < 0.15 * recipe.learning_rate


def test_training_writes_a_checkpoint_that_loads_and_lowers_the_loss(tmp_path):
    recipe = parse_recipe({**RECIPE, "output_dir": str(tmp_path / "out")})
    trainer = Trainer(recipe)
    folder = trainer.train()
    losses = [row["loss"] for row in trainer.history]
    assert losses[-1] < losses[0]
    model = load_checkpoint(folder, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    trainer.model.eval()
    expected = trainer.model(ids.to(trainer.device)).logits.detach().cpu()
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(folder)("Hello, 42!").input_ids
    record = json.loads((folder / "training.json").read_text())
    assert record["recipe"]["phases"][1]["sequence_length"] == 256
    assert "output_dir" not in record["recipe"]
    assert model.config.max_sequence_length == 256


def test_same_recipe_same_weights(tmp_path):
    short = {**RECIPE, "phases": [{"sequence_length": 128, "num_steps": 3, "rows_per_step": 4}]}
    states = []
    for name in ("a", "b"):
        trainer = Trainer(parse_recipe({**short, "output_dir": str(tmp_path / name)}))
        trainer.train()
        states.append(trainer.model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_non_finite_loss_stops_before_the_update(tmp_path):
    trainer = Trainer(parse_recipe({**RECIPE, "output_dir": str(tmp_path)}))
    with torch.no_grad():
        trainer.model.get_output_embeddings().weight[0, 0] = float("nan")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    rows = TrainingRows(
        trainer.recipe, trainer.recipe.phases[0], trainer.windows, trainer.retrieval
    )
    batch = next(iter(row_loader(rows, trainer.recipe.phases[0], num_workers=0)))
    with pytest.raises(FloatingPointError, match="nothing was updated"):
        trainer.step(0, batch)
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)


def test_generated_text_is_deterministic_and_not_periodic():
    first = [document["text"] for document in generate_documents(0, 6)]
    assert first == [document["text"] for document in generate_documents(0, 6)]
    assert first != [document["text"] for document in generate_documents(1, 6)]
    words = " ".join(first).split()
    windows = [" ".join(words[i : i + 8]) for i in range(len(words) - 8)]
    assert len(set(windows)) > 0.995 * len(windows)


def test_tokenizer_splits_digits_and_encodes_anything(sources):
    tokenizer = sources[2]
    for text in ("code 90210.", "naïve 字 \u0007", " two  spaces\n"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer("90210").input_ids) == 5
