"""Fidelity: the comparison's figures by hand, and the command on a shipped benchmark."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from mmengine.config import Config
from tiny import write_tiny_checkpoint

from opencompass_llada import cli
from opencompass_llada.needlebench.niah import niah_cells
from opencompass_llada.report.statistics import paired_interval
from opencompass_llada.runs import checks
from opencompass_llada.runs.fidelity.comparison import Answered, compare
from opencompass_llada.runs.fidelity.settings import apply_setting, parse_setting
from opencompass_llada.wrapper import LLaDACausalLM


def answered(ids, text, score=100.0, passes=4, seconds=2.0):
    return Answered(
        token_ids=tuple(ids), text=text, score=score, num_forward_passes=passes, seconds=seconds
    )


def test_a_comparison_by_hand():
    first = [answered([1, 2, 3], "abc"), answered([5, 6], "de", score=40.0)]
    second = [answered([1, 9, 3, 4], "abc", seconds=0.5), answered([5, 6], "de ", 30.0, passes=1)]
    found = compare(first, second)
    assert found.token_agreement == pytest.approx(4 / 6)
    assert found.answer_agreement == 0.5
    assert (found.first_score, found.second_score, found.score_difference) == (70.0, 65.0, -5.0)
    assert (found.first_passes, found.second_passes) == (4.0, 2.5)
    assert found.speed_up == pytest.approx(2.0 / 1.25)
    assert (found.num_samples, found.num_units) == (2, 2)
    assert found.difference_low < -10.0
    assert found.difference_high > 0.0


def test_a_question_asked_again_counts_once_and_needles_are_the_units():
    """Three models with one tokenizer had three copies of each prompt: n was 36 for 12."""
    first = [replace(answered([1], "a"), question=q, unit=u) for q, u in ("px", "qx", "ry") * 3]
    second = [replace(a, score=0.0 if a.question == "p" else 100.0) for a in first]
    found = compare(first, second)
    assert (found.num_samples, found.num_units) == (3, 2)
    assert found.score_difference == pytest.approx(-100 / 3)
    assert (found.difference_low, found.difference_high) == paired_interval(
        [-100.0, 0.0, 0.0], ["x", "x", "y"]
    )
    assert compare(first[:3], [replace(a, score=300.0) for a in first[:3]]).difference_low is None


def test_settings_are_read_as_python_or_text():
    words = ["cache={'type': 'prompt', 'refresh': 8}", "num_steps=16", "dtype=bfloat16"]
    setting = parse_setting(words)
    assert setting == {
        "cache": {"type": "prompt", "refresh": 8}, "num_steps": 16, "dtype": "bfloat16"
    }  # fmt: skip
    model = {"abbr": "m", "sampler": {"block_length": 4, "num_steps": 8}, "dtype": "float32"}
    assert apply_setting(model, setting) == {
        "abbr": "m",
        "dtype": "bfloat16",
        "sampler": {"block_length": 4, "num_steps": 16, "cache": {"type": "prompt", "refresh": 8}},
    }
    with pytest.raises(ValueError, match="Did you mean 'cache'"):
        parse_setting(["cahce=prompt"])
    with pytest.raises(ValueError, match="must be name=value"):
        parse_setting(["prompt"])
    with pytest.raises(ValueError, match="diffusion_config"):
        apply_setting({"diffusion_config": {"steps": 4}}, {"num_steps": 3})


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config with a random tiny model and two needle cells of the embedded data."""
    checkpoint = write_tiny_checkpoint(tmp_path / "model", max_sequence_length=2048)
    sampler = dict(block_length=4, num_steps=8)
    options = dict(type=LLaDACausalLM, abbr="tiny", path=str(checkpoint), sampler=sampler)
    datasets = niah_cells(
        data="embedded",
        lengths=(700,),
        depths=(0, 50),
        num_repeats=3,
        tokenizer=str(checkpoint),
        generation_length=8,
    )
    models = [dict(options, max_out_len=8, batch_size=2)]
    found = Config(dict(models=models, datasets=datasets))
    monkeypatch.setattr(checks, "read_config", lambda path: found)
    return found


def test_the_command_compares_two_settings_on_the_same_samples(config, tmp_path, capsys):
    record = tmp_path / "record.json"
    words = ["fidelity", "--config", "config.py", "--limit", "2", "--record", str(record)]
    assert cli.main([*words, "--second", "cache=prompt", "num_steps=8"]) == 0
    table = capsys.readouterr().out
    assert "difference (95 %)" in table
    found = json.loads(record.read_text())
    assert found["second"] == {"cache": "prompt", "num_steps": 8}
    assert set(found["results"]) == {"all", *(c["abbr"] for c in config["datasets"])}
    pooled = found["results"]["all"]
    assert pooled["num_samples"] == 4
    assert pooled["num_units"] == 2, "two needles, each at two depths"
    assert pooled["first_passes"] == pooled["second_passes"] == 8
    assert 0 <= pooled["token_agreement"] <= 1
    # The same setting twice is the same in everything but time.
    assert cli.main([*words, "--second", "num_steps=8"]) == 0
    same = json.loads(record.read_text())["results"]["all"]
    assert same["token_agreement"] == same["answer_agreement"] == 1.0
    assert same["score_difference"] == 0.0
    assert same["first_score"] == pooled["first_score"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--second", "cahce=prompt"], "Did you mean 'cache'"),
        (["--second", "cache=promptt"], "Did you mean 'prompt'"),
        (["--second", "cache=prompt", "--model", "tinny"], "Did you mean 'tiny'"),
        (["--second", "cache=prompt", "--datasets", "ruler*"], "no data set is named like"),
    ],
)
def test_wrong_words_are_said_before_a_weight_is_read(config, words, message, capsys, monkeypatch):
    monkeypatch.setattr("opencompass_llada.runs.fidelity.command.answer_all", None)
    assert cli.main(["fidelity", "--config", "config.py", *words]) == 2
    assert message in capsys.readouterr().err
