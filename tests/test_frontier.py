"""A sweep of settings: what none beats, by hand, and the command on a shipped benchmark."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from mmengine.config import Config

from opencompass_llada import cli
from opencompass_llada.needlebench.niah import niah_cells
from opencompass_llada.presets import PRESETS, put_in
from opencompass_llada.runs.frontier import (
    draw_frontier,
    mark_undominated,
    parse_settings,
    write_frontier,
)


def marked(*pairs):
    scores, seconds = (pd.Series(own, dtype=float) for own in zip(*pairs, strict=True))
    return mark_undominated(scores, seconds)


def test_what_no_other_setting_beats():
    assert marked((90, 2), (80, 1), (85, 1.5), (80, 1.2)) == [True, True, True, False]
    assert marked((90, 2), (90, 1)) == [False, True], "as good, and faster"
    assert marked((90, 1), (90, 1)) == [True, True], "equal ones do not beat each other"
    assert marked((90, float("nan")), (80, 1)) == [False, True], "no seconds, no place"
    assert marked((float("nan"), 1), (80, 2)) == [False, True], "nor without a score"
    assert mark_undominated(pd.Series([None, 80]), pd.Series([None, None])) == [False, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([["exact"]], "at least twice"),
        ([["exact"], ["exact", "cache=prompt"]], "exact is there twice"),
        ([["cache=prompt"], ["b"]], "must begin with a name"),
        ([["exact"], ["cached", "cahce=prompt"]], "Did you mean 'cache'"),
        ([["exact"], ["cached", "cache=prompt", "cache=dual"]], "is there twice: 'cache=dual'"),
        ([["exact"], ["b", "cache=prompt", "sampler={'cache': 'dual'}"]], "by itself and in"),
    ],
)
def test_settings_that_do_not_fit_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(given)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("absent/sweep.json", "must be a file in a folder that there is"),
        ("", "must be a file in a folder that there is"),
        ("sweep.png", "is the picture's name"),
    ],
)
def test_a_record_that_cannot_be_written_is_refused_before_the_run(
    record, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("opencompass_llada.runs.fidelity.start_run", None)
    command = ["fidelity", "--config", "absent.py", "--record", str(tmp_path / record)]
    assert cli.main([*command, "--sweep", "exact", "--sweep", "cached", "cache=prompt"]) == 2
    assert message in capsys.readouterr().err


def test_the_table_and_the_picture_have_every_setting(tmp_path):
    row = {"num_samples": 4, "num_units": 2, "answer_agreement": 1.0, "passes": 8.0}
    row |= dict.fromkeys(("score_low", "score_high")) | {"difference_low": -1.0}
    row["difference_high"] = 2.0
    found = pd.DataFrame(
        {
            "exact": {**row, "score": 90.0, "difference": 0.0, "seconds": 2.0, "undominated": True},
            "cached": {**row, "score": 80.0, "difference": -10.0, "seconds": None,
                       "undominated": False},
        }
    ).T  # fmt: skip
    text = write_frontier(found)
    assert "90.0 (- to -)" in text
    assert "-10.0 (-1.0 to +2.0)" in text
    assert text.endswith("as good and as fast (by the means): exact.\n")
    draw_frontier(found, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 5000


def test_the_command_runs_all_settings_in_one_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = niah_cells(
        lengths=[256], depths=[0, 100], repeats=2, data="embedded", generation_length=4
    )
    model = {"type": "opencompass_llada.wrapper.LLaDACausalLM", "abbr": "tiny",
             "path": "asset:tiny-llada", "max_out_len": 4}  # fmt: skip
    Config({"models": [model], "datasets": cells}).dump("config.py")
    settings = ["--sweep", "exact", "--sweep", "cached", "cache=prompt"]
    settings += ["--sweep", "fast", "sampler=fast"]
    record = tmp_path / "sweep.json"
    command = ["fidelity", "--config", "config.py", *settings, "--record", str(record)]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    found = json.loads(record.read_text())
    assert list(found["results"]) == ["exact", "cached", "fast"]
    assert found["options"]["exact"] == {}
    assert found["options"]["fast"] == put_in({}, PRESETS["fast"])
    assert found["settings"]["cached"] == {"cache": "prompt"}
    assert found["results"]["exact"]["answer_agreement"] == 1.0
    assert found["results"]["exact"]["difference"] == 0.0
    assert all(own["seconds"] > 0 for own in found["results"].values())
    assert "cached" in out
    assert record.with_suffix(".png").is_file()
    assert cli.main([*command, "--first", "num_steps=2"]) == 2
