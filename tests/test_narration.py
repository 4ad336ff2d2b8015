"""What a run says while it runs: what it is, how far it is, when it will end."""

import io
import logging
import sys
import threading
from datetime import datetime

import pytest
from work_dirs import make_model, niah_cell, write_run

from opencompass_llada.runs import narration
from opencompass_llada.runs.run_folder import read_run
from opencompass_llada.runs.watch import RunTotals, read_totals

NOON = datetime(2026, 11, 29, 12, 0)


def totals(answered, samples, share, cells=10):
    return RunTotals(num_cells=cells, num_answered=answered, num_samples=samples, share=share)


def test_the_expected_end_takes_the_pace_since_the_start():
    start = totals(4, 40, 0.4)
    line = narration.describe_progress(start, totals(7, 70, 0.7), 60.0, NOON)
    assert line == "7 of 10 cells answered, 0.5 samples/s, expected end 12:01, in 1 min 0 s"
    assert narration.describe_progress(start, start, 60.0, NOON) == "4 of 10 cells answered"
    done = narration.describe_progress(start, totals(10, 100, 1.0), 120.0, NOON)
    assert done == "10 of 10 cells answered, 0.5 samples/s, in 2 min 0 s"


def test_no_end_is_expected_when_inference_is_over():
    """Cells that failed stay unanswered."""
    start, now = totals(0, 0, 0.0), totals(7, 75, 0.74)
    line = narration.describe_progress(start, now, 60.0, None)
    assert line == "7 of 10 cells answered, 1.25 samples/s, in 1 min 0 s"


@pytest.fixture
def run(tmp_path):
    models = [
        make_model("plain"),
        make_model("scaled", rope_scaling={"type": "ntk", "theta_multiplier": 4}),
    ]
    cells = [niah_cell(length, depth) for length in (2000, 4000) for depth in (0, 100)]
    write_run(tmp_path / "run", models, cells)
    return tmp_path / "run"


def test_the_start_names_models_scalings_lengths_and_where_to_watch(run):
    own = read_run(run)
    text = narration.describe_run(own, read_totals(own))
    assert text.startswith("This run: 8 cells (a model on a data set), 8 answered already.")
    assert "plain; scaled with ntk theta_multiplier=4" in text
    assert "2,000 to 4,000 tokens" in text
    assert f"opencompass-llada watch {run}" in text


def test_lines_come_while_the_work_goes_on(run, caplog, monkeypatch):
    monkeypatch.setattr(narration, "FIRST_LOOK", 0.01)
    caplog.set_level(logging.INFO)
    logging.getLogger("opencompass_llada").addHandler(caplog.handler)
    files = sorted((run / "predictions" / "plain").glob("*.json"))
    texts = [file.read_text() for file in files]
    for file in files:
        file.unlink()
    with narration.told(run):
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
    logging.getLogger("opencompass_llada").removeHandler(caplog.handler)
    lines = [record.message for record in caplog.records if "narration" in record.name]
    assert lines[0].startswith("This run: 8 cells (a model on a data set), 4 answered already.")
    assert lines[-1].startswith("8 of 8 cells answered, ")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_live_line_with_log_lines_above_it(run, monkeypatch):
    terminal, seen = Terminal(), threading.Event()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(narration, "LIVE_WAIT", 0.01)
    logger = logging.getLogger("opencompass_llada")
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(terminal)])
    monkeypatch.setattr(logger, "level", logging.INFO)
    read = narration.read_totals

    def look(own):
        seen.set()
        return read(own)

    with narration.told(run):
        seen.clear()
        monkeypatch.setattr(narration, "read_totals", look)
        assert seen.wait(10)
        logger.info("a line of the log")
        seen.clear()
        assert seen.wait(10)
    text = terminal.getvalue()
    live = [part for part in text.split("\r") if "| watch: " in part]
    assert len(live) >= 2
    for part in live:
        assert part.startswith("8 of 8 cells answered, ")
        assert f"opencompass-llada watch {run}" in part
        assert f"report: {run}/report/report.html" in part
    assert "\ra line of the log\n" in text, "the live line makes room"
    last = text.rstrip("\n").rpartition("\r")[2]
    assert last.startswith("8 of 8 cells")
    assert "| watch: " not in last, "the live line goes at the end"


def test_the_last_line_of_failed_cells_names_no_end(run, caplog):
    caplog.set_level(logging.INFO)
    logging.getLogger("opencompass_llada").addHandler(caplog.handler)
    first, second, *_ = sorted((run / "predictions" / "plain").glob("*.json"))
    text = first.read_text()
    first.unlink()
    second.unlink()
    with narration.told(run):
        first.write_text(text)
    logging.getLogger("opencompass_llada").removeHandler(caplog.handler)
    last = [record.message for record in caplog.records if "narration" in record.name][-1]
    assert last.startswith("7 of 8 cells answered, ")
    assert "expected end" not in last


def test_a_folder_without_a_run_stops_nothing(tmp_path, caplog):
    with narration.told(tmp_path):
        pass
