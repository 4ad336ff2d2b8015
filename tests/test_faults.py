"""Whatever a command raises ends in one paragraph, and a traceback is never the last thing."""

import errno
import subprocess
import sys

import pytest

from opencompass_llada import faults
from opencompass_llada.options import reject_unknown


def raiser(error):
    def main():
        raise error

    return main


def run(capsys, main, **keywords):
    status = faults.guard(main, program="program", **keywords)
    return status, capsys.readouterr().err


def test_a_status_passes(capsys):
    assert run(capsys, lambda: 3) == (3, "")
    assert run(capsys, lambda: None) == (0, "")
    with pytest.raises(SystemExit):
        faults.guard(raiser(SystemExit(2)))


def test_what_the_package_refuses_is_said_as_it_is(capsys, tmp_path):
    refuse = lambda: reject_unknown("word", ["wrod"], ["word"])  # noqa: E731
    status, text = run(capsys, refuse, log_folder=lambda: tmp_path)
    assert status == 1
    assert text == "program: Unknown word 'wrod'. Did you mean 'word'? Valid: word.\n"
    assert not list(tmp_path.iterdir())
    assert "Traceback" in run(capsys, refuse, show_traceback=True)[1]


class NoException(BaseException):
    """As torch's CheckpointException is."""


@pytest.mark.parametrize(
    "main",
    [
        raiser(ValueError("of another package")),
        raiser(NoException("planned by nobody")),
        lambda: faults.is_foreseen(None),  # an AttributeError in a line of this package
        lambda: int("text"),
    ],
)
def test_everything_else_is_a_bug_with_its_traceback_in_a_file(capsys, tmp_path, main):
    status, text = run(capsys, main, log_folder=lambda: tmp_path / "logs")
    assert status == 1
    assert text.startswith("program: this is a bug in opencompass_llada, please report: ")
    assert "Traceback" not in text
    assert text.count("\n") == 1
    (log,) = (tmp_path / "logs").iterdir()
    assert str(log) in text
    assert "Traceback" in log.read_text()


def test_a_log_that_cannot_be_written_goes_elsewhere(capsys, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(faults.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    text = run(capsys, raiser(KeyError("x")), log_folder=lambda: file / "logs")[1]
    assert str(tmp_path / "temporary") in text
    monkeypatch.setattr(faults.tempfile, "gettempdir", lambda: str(file))
    text = run(capsys, raiser(KeyError("x")))[1]
    assert "Traceback" in text
    assert text.splitlines()[-1].startswith("program: this is a bug")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left"),
        (MemoryError(), "the memory does not suffice"),
        (MemoryError(), "batch_size or max_seq_len in an evaluation"),
        (MemoryError(), "micro_rows or sequence_length in a training"),
        (KeyboardInterrupt(), "stopped by an interrupt"),
    ],
)
def test_what_the_machine_lacks_is_no_bug(capsys, tmp_path, error, words):
    text = run(capsys, raiser(error), log_folder=lambda: tmp_path)[1]
    assert words in text
    assert "this is a bug" not in text


def test_a_reader_that_leaves_is_no_fault():
    script = (
        "import sys; from opencompass_llada.faults import guard\n"
        "def main():\n    for _ in range(99999): sys.stdout.write('word\\n')\n"
        "sys.exit(guard(main))"
    )
    command = f'{sys.executable} -c "{script}" | head -1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("word\n", "")
