"""Ends every command in one paragraph: what was refused, what the machine lacks, or a bug.

The one place where an exception becomes what a user reads: whoever refuses an input raises, with a
text that names it, the rule and the remedy.
"""

from __future__ import annotations

import dis
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from opencompass_llada.redaction import redact

_PACKAGE = Path(__file__).resolve().parent
#: Causes that the machine gives, not the code: name of the class, and what has too little memory.
_MACHINE = {"OutOfMemoryError": "device", "MemoryError": "machine"}
_INTERRUPTED, _BROKEN_PIPE = 130, 141


def guard(
    main: Callable[[], int | None],
    *,
    program: str | None = None,
    log_folder: Callable[[], Path | None] = lambda: None,
    show_traceback: bool | Callable[[], bool] = False,
) -> int:
    """Call a command and return its exit status: 1 where it raised, 130 where interrupted.

    The paragraph begins with the program, by default the running script's name. The traceback of a
    bug goes to ``log_folder`` or the system's temporary files, and above it if it is to be shown.
    """
    try:
        return int(main() or 0)
    except (SystemExit, GeneratorExit):
        raise
    except BrokenPipeError:  # whoever read the output has left: `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except BaseException as error:  # some of torch's own are no Exception
        if show_traceback() if callable(show_traceback) else show_traceback:
            sys.stderr.write(redact("".join(traceback.format_exception(error))))
        name = program or Path(sys.argv[0]).name
        sys.stderr.write(redact(f"{name}: {_describe(error, log_folder)}\n"))
        return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def _describe(error: BaseException, log_folder: Callable[[], Path | None]) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by an interrupt; what is finished is kept."
    if is_foreseen(error):
        return str(error)
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    for kind in type(error).__mro__:
        if kind.__name__ in _MACHINE:
            return (
                f"the memory does not suffice ({text}). Use a smaller batch_size or max_seq_len in "
                "an evaluation, a smaller micro_rows or sequence_length in a training, or a "
                f"{_MACHINE[kind.__name__]} with more memory."
            )
    trace = _keep_traceback(error, log_folder)
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        file = f" {error.filename}" if error.filename is not None else ""
        return (
            f"the system refused to read or write{file}: {error.strerror}. Check that the path is "
            f"right, that it may be read and written, and that the disk has room. {trace}"
        )
    last = _last_frame(error)
    place = last and f" (raised in {last.tb_frame.f_code.co_filename}, line {last.tb_lineno})"
    return (
        f"this is a bug in opencompass_llada, please report: {text}{place or ''}. {trace} Send it "
        "along with the command and the config."
    )


def is_foreseen(error: BaseException) -> bool:
    """Return whether a statement ``raise`` of this package made the exception, to be read as it is.

    A ``KeyError`` of a missing key or a ``ValueError`` of ``int()`` is a bug; so is an ``assert``.
    """
    last = _last_frame(error)
    if last is None or isinstance(error, AssertionError) or not is_deliberate(error):
        return False
    return Path(last.tb_frame.f_code.co_filename).resolve().is_relative_to(_PACKAGE)


def is_deliberate(error: BaseException) -> bool:
    """Return whether a statement ``raise`` made the exception, in whatever file it stands."""
    last = _last_frame(error)
    raising = dis.opmap["RAISE_VARARGS"]
    return last is not None and last.tb_frame.f_code.co_code[last.tb_lasti] == raising


def _last_frame(error: BaseException) -> TracebackType | None:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last


def _keep_traceback(error: BaseException, log_folder: Callable[[], Path | None]) -> str:
    """Write the traceback to a file, and say where; where that fails, to standard error."""
    text = redact("".join(traceback.format_exception(error)))
    name = f"fault_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}.log"
    head = f"command: {redact(' '.join(sys.argv))}\npython: {sys.version}\n"
    for folder in filter(None, (log_folder(), Path(tempfile.gettempdir()))):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(head + text, encoding="utf-8", errors="replace")
            return f"The traceback is in {folder / name}."
    sys.stderr.write(text)
    return "The traceback is above: no file could be written."
