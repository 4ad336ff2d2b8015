"""Fidelity: the comparison's figures by hand, and the command on a shipped benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from mmengine.config import Config
from tiny import write_tiny_checkpoint
from work_dirs import make_model, niah_cell, ruler_cell, write_run

from opencompass_llada import cli
from opencompass_llada.needlebench.niah import niah_cells
from opencompass_llada.report.statistics import paired_interval
from opencompass_llada.runs import command_line
from opencompass_llada.runs.fidelity import apply_setting, compare, parse_setting, write_table
from opencompass_llada.wrapper import LLaDACausalLM


def answered(*rows, **columns):
    """Return answers of (ids, text, score, passes, seconds), a question and a unit each."""
    named = ["token_ids", "text", "score", "passes", "seconds"]
    frame = pd.DataFrame(rows, columns=named)
    unique = [f"{place}" for place in range(len(rows))]
    own = {"question": unique, "unit": unique, "gold": "x", "samples": None, "is_own_score": True}
    return frame.assign(**{**own, **columns})


def test_a_comparison_by_hand():
    first = answered(([1, 2, 3], "abc", 100.0, 4, 2.0), ([5, 6], "de", 40.0, 4, 2.0))
    second = answered(([1, 9, 3, 4], "abc", 100.0, 4, 0.5), ([5, 6], "de ", 30.0, 1, 2.0))
    found = compare(first, second)
    assert found["token_agreement"] == pytest.approx(4 / 6)
    assert found["answer_agreement"] == 0.5
    scores = [found[name] for name in ("first_score", "second_score", "score_difference")]
    assert scores == [70.0, 65.0, -5.0]
    assert (found["first_passes"], found["second_passes"]) == (4.0, 2.5)
    assert found["speed_up"] == pytest.approx(2.0 / 1.25)
    assert (found["num_samples"], found["num_units"]) == (2, 2)
    assert found["difference_low"] < -10.0
    assert found["difference_high"] > 0.0


def test_a_question_asked_again_counts_once_and_needles_are_the_units():
    """Three models with one tokenizer had three copies of each prompt: n was 36 for 12."""
    asked = {"question": list("pqr") * 3, "unit": list("xxy") * 3}
    first = answered(*[([1], "a", 100.0, 4, 2.0)] * 9, **asked)
    second = first.assign(score=[0.0, 100.0, 100.0] * 3)
    found = compare(first, second)
    assert (found["num_samples"], found["num_units"]) == (3, 2)
    assert found["score_difference"] == pytest.approx(-100 / 3)
    assert (found["difference_low"], found["difference_high"]) == paired_interval(
        [-100.0, 0.0, 0.0], ["x", "x", "y"]
    )
    assert compare(first[:3], first[:3].assign(score=300.0))["difference_low"] is None


def test_what_is_not_recorded_has_no_figure():
    first = answered(([1], "a", 50.0, float("nan"), 1.0), (None, "b", 50.0, 4, 1.0))
    found = compare(first.assign(is_own_score=False), first)
    unknown = ("token_agreement", "difference_low", "difference_high", "first_passes")
    assert [found[name] for name in unknown] == [None] * 4
    assert "    -/-  " in write_table({"a": found})


@pytest.mark.parametrize("other", [{"gold": "y"}, {"samples": "another hash"}])
def test_answers_to_other_samples_are_not_compared(other):
    first = answered(([1], "a", 50.0, 4, 1.0), samples="a hash")
    compare(first, first.assign(samples=None))
    with pytest.raises(ValueError, match="other samples"):
        compare(first, first.assign(**other))
    with pytest.raises(ValueError, match="1 and 0 answers"):
        compare(first, first[:0])


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
        needle_draws="published",
        lengths=(700,),
        depths=(0, 50),
        repeats=3,
        tokenizer=str(checkpoint),
        generation_length=8,
    )
    models = [dict(options, max_out_len=8, batch_size=2)]
    found = Config(dict(models=models, datasets=datasets))
    monkeypatch.setattr(command_line, "read_config", lambda path: found)
    return found


def test_the_command_compares_two_settings_on_the_same_samples(config, tmp_path, capsys):
    record, work_dir = tmp_path / "record.json", tmp_path / "runs"
    ours = ["--record", str(record)]
    words = ["fidelity", "--config", "config.py", "--limit", "2", "-w", str(work_dir), *ours]
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
    assert pooled["first_seconds"] > 0
    assert pooled["difference_low"] is not None, "each sample's score is recorded"
    assert 0 <= pooled["token_agreement"] <= 1
    first, second = found["runs"]
    # The finished runs are compared again, and one with itself is the same in everything.
    assert cli.main(["fidelity", "--runs", first, second, *ours]) == 0
    assert json.loads(record.read_text())["results"] == found["results"]
    assert cli.main(["fidelity", "--runs", first, first, *ours]) == 0
    same = json.loads(record.read_text())["results"]["all"]
    assert same["token_agreement"] == same["answer_agreement"] == 1.0
    assert same["score_difference"] == 0.0
    assert same["first_score"] == pooled["first_score"]
    # Nothing is compared of a run that lost an answer.
    (lost, *_) = Path(second).glob("predictions/*/*.json")
    lost.unlink()
    capsys.readouterr()
    assert cli.main(["fidelity", "--runs", first, second]) == 2
    assert "no predictions were written" in capsys.readouterr().err


def test_finished_runs_are_compared_without_their_checkpoint(tmp_path, capsys):
    cells = [niah_cell(1000, 0), ruler_cell("vt", 4096)]
    runs = [write_run(tmp_path / name, [make_model("one")], cells) for name in ("a", "b")]
    for path in runs[1].glob("results/one/ruler*.json"):
        path.write_text(json.dumps({"score": 50.0}))  # of the data set alone
    assert cli.main(["fidelity", "--runs", *map(str, runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    niah, ruler = lines[1], lines[2]
    assert niah.split()[3] == ruler.split()[3] == "-", "no tokenizer, no tokens"
    assert " (- to -) " in ruler
    assert " (- to -) " not in niah
    assert cli.main(["fidelity", "--runs", str(runs[0]), str(tmp_path)]) == 2
    assert "a run's folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--second", "cahce=prompt"], "Did you mean 'cache'"),
        (["--second", "cache=promptt"], "Did you mean 'prompt'"),
        (["--second", "cache=prompt", "--model", "tinny"], "Did you mean 'tiny'"),
        (["--second", "cache=prompt", "--datasets", "ruler*"], "no data set is named like"),
        ([], "--second is missing"),
    ],
)
def test_wrong_words_are_said_before_a_weight_is_read(config, words, message, capsys, monkeypatch):
    monkeypatch.setattr("opencompass_llada.runs.fidelity.start_run", None)
    assert cli.main(["fidelity", "--config", "config.py", *words]) == 2
    assert message in capsys.readouterr().err
