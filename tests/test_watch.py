"""Progress of a run: shares, states and the expected end, from files alone."""

import json
import os
from datetime import datetime, timedelta

import pytest
from work_dirs import make_model, niah_cell, ruler_cell, write_run

from opencompass_llada.cli import main
from opencompass_llada.files import host_name
from opencompass_llada.runs.run_folder import find_runs
from opencompass_llada.runs.watch import read_progress

CELLS = [niah_cell(n, 0) for n in (1000, 2000, 5000)] + [ruler_cell("vt", 4096)]
NOW = datetime(2026, 5, 1, 12, 0)


@pytest.fixture
def run(tmp_path):
    """Return a run whose files were last touched long ago."""
    folder = write_run(tmp_path / "a", [make_model("one")], CELLS, record=False)
    for path in folder.rglob("*.json"):
        touch(path, -600)
    return folder


def touch(path, seconds):
    moment = (NOW + timedelta(seconds=seconds)).timestamp()
    os.utime(path, (moment, moment))


def progress(folder):
    found = {line.benchmark: line for line in read_progress(find_runs([folder])[0], NOW)}
    return found["niah"], found["ruler"]


def test_a_finished_run_is_done(run, capsys):
    niah, ruler = progress(run)
    assert (niah.is_done, niah.share, niah.num_scored) == (True, 1.0, 3)
    assert niah.describe(NOW).endswith("3/3 answered, 3 scored  done")
    assert ruler.is_done
    assert main(["watch", str(run)]) == 0, "it ends by itself"
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_end_is_the_pace_so_far_times_what_is_left(run):
    for folder in ("predictions", "results"):
        (run / folder / "one/niah_length5000_depth000.json").unlink()
    (run / "results/one/niah_length2000_depth000.json").unlink()
    touch(run / "predictions/one/niah_length1000_depth000.json", -600)
    touch(run / "results/one/niah_length1000_depth000.json", -600)
    touch(run / "predictions/one/niah_length2000_depth000.json", -60)
    niah, _ = progress(run)
    assert (niah.num_answered, niah.num_scored) == (2, 1)
    assert niah.share == pytest.approx(3 / 8), "a cell counts by its length"
    # 3/8 took the 540 s between first and last file, so 5/8 take 900 s.
    assert niah.expected_end == NOW + timedelta(seconds=900)
    text = niah.describe(NOW)
    assert "end about 12:15 (15 min 0 s)" in text
    assert "last change 1 min 0 s ago" in text


def test_a_cell_under_way_counts_by_its_lines_and_shards(run):
    folder = run / "predictions/one"
    whole = folder / "ruler_vt_length4096.json"
    (run / "results/one/ruler_vt_length4096.json").unlink()
    answers = json.loads(whole.read_text())
    whole.unlink()
    _, ruler = progress(run)
    assert ruler.share == 0
    assert "waiting" in ruler.describe(NOW)
    (folder / "tmp_ruler_vt_length4096.jsonl").write_text('{"0": {}}\n')
    assert progress(run)[1].share == pytest.approx(1 / 4)
    shard = {key: answers[key] for key in ("0", "1")}
    (folder / "ruler_vt_length4096_0.json").write_text(json.dumps(shard))
    assert progress(run)[1].share == pytest.approx(3 / 4)
    whole.write_text(json.dumps(answers))
    assert "being scored" in progress(run)[1].describe(NOW)


@pytest.mark.parametrize("names", [("0-2of4", "2-4of4"), ("0", "1")], ids=["samples", "numbers"])
def test_a_cell_whose_shards_are_all_there_is_answered(run, names):
    """Named by samples, or as OpenCompass numbers them."""
    folder = run / "predictions/one"
    whole = folder / "ruler_vt_length4096.json"
    answers = list(json.loads(whole.read_text()).values())
    whole.unlink()
    for place, name in enumerate(names):
        assert progress(run)[1].share == place / 2
        shard = {str(n): answers[2 * place + n] for n in range(2)}
        (folder / f"ruler_vt_length4096_{name}.json").write_text(json.dumps(shard))
    ruler = progress(run)[1]
    assert (ruler.share, ruler.num_answered, ruler.is_done) == (1.0, 1, True)
    (folder / "tmp_ruler_vt_length4096_0-2of4.jsonl").write_text("")
    assert (progress(run)[1].share < 1) is (names[0] == "0"), "a shard is being made again"


def test_a_killed_driver_is_told(run, capsys):
    lock = {"host": host_name(), "pid": 999_999_999, "since": None, "doing": "an evaluation"}
    (run / ".lock").write_text(json.dumps(lock))
    assert main(["watch", str(run)]) == 1
    assert "process 999999999 on" in (said := capsys.readouterr().out)
    assert "was killed" in said
    assert "Go on with -r." in said
    (run / ".lock").rename(run / ".lock.shard-3")
    assert main(["watch", str(run)]) == 1, "one of several shards"
    (run / ".lock.shard-3").unlink()
    lock = {**lock, "pid": os.getpid()}
    (run / ".lock").write_text(json.dumps(lock))
    assert main(["watch", str(run), "--once"]) == 0


def test_where_there_is_no_run_it_says_so(tmp_path, capsys):
    assert main(["watch", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_report_command(run, tmp_path, capsys):
    assert main(["report", str(run), "-o", str(tmp_path / "out"), "--title", "My <i>title"]) == 0
    assert "open " in capsys.readouterr().out
    page = (tmp_path / "out/report.html").read_text()
    assert "<title>My &lt;i&gt;title</title>" in page
    assert main(["report", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")]) == 2
