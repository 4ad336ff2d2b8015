"""Reads files of data as they are published, and names file and line where one is damaged.

Knows JSON and UTF-8 (with or without a byte order mark), no benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opencompass_llada.options import check_value


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        ValueError: If it is not UTF-8, or cannot be read.
    """
    with _naming(path):
        return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        ValueError: If it is not UTF-8 or no JSON; names file and line.
    """
    text = read_text(path)
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(
            f"{path}{line}: not valid JSON ({error}; the file has {len(text)} characters); it is "
            "half-written or damaged. Fetch it again."
        ) from error
    refuse_half_characters(found, str(path))
    return found


def read_json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the object of each line that is not blank, with its place before it.

    Raises:
        ValueError: For a line that is no JSON object or not UTF-8; names file and line.
    """
    # Lines end at \n only: other separators stand inside texts.
    with _naming(path), path.open(encoding="utf-8-sig", newline="\n") as lines:
        yield from parse_json_lines(lines, str(path))


def parse_json_lines(lines: Iterable[str], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield as `read_json_lines` does, from lines of any source.

    Args:
        lines: With their ends.
        name: Of the file, for errors.
    """
    with _naming(name):
        for number, text in enumerate(lines, start=1):
            if text.strip():
                where = f"{name}, line {number}"
                yield where, parse_json_line(text, where)


def parse_json_line(text: str, where: str) -> Mapping[str, Any]:
    """Read one line of a jsonl file.

    Args:
        text: The line.
        where: File and line number, for the error.

    Raises:
        ValueError: If it is not a JSON object.
    """
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        state = "half-written" if not text.endswith("\n") else "damaged"
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        reason = getattr(error, "msg", str(error))
        raise ValueError(
            f"{where}: not valid JSON ({reason}{place} of {len(text)}); the file is {state}. "
            "Fetch it again."
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: the line must be a JSON object, not {type(row).__name__}.")
    refuse_half_characters(row, where)
    return row


def take(row: Mapping[str, Any], name: str, where: str, expected: Any = str) -> Any:
    """Return a field of a row.

    Args:
        row: The row.
        name: Of the field.
        where: File and place, for the error.
        expected: Its type, as `options.check_value` takes it.

    Raises:
        ValueError: If the row lacks it, or it is of another type.
    """
    if name not in row:
        present = ", ".join(row) or "none"
        raise ValueError(
            f"{where}: the row has no {name!r} (its fields: {present}); it is not in the format "
            "that is published. Fetch the file again."
        )
    try:
        return check_value(f"{where}: {name}", row[name], expected)
    except ValueError as error:
        text = str(error).rpartition(";")[0]
        raise ValueError(f"{text}; correct the row or fetch the file again.") from error


def refuse_half_characters(row: Any, where: str) -> None:
    """Refuse half of a surrogate pair, which no tokenizer and no file takes.

    Args:
        row: What JSON held.
        where: File and place, for the error.

    Raises:
        ValueError: With the half character.
    """
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(
            f"{where}: the text holds {half!a}, half of a surrogate pair and no character; it was "
            "cut inside one. Take it out, or fetch the file again."
        ) from error


@contextmanager
def _naming(file: str | Path) -> Iterator[None]:
    """Say which file cannot be read, or is not UTF-8."""
    try:
        yield
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"{file} is not UTF-8: it holds the byte 0x{byte:02x} where none can be. Convert it, "
            f"e.g. iconv -f LATIN1 -t UTF-8 {file} > NEW, or fetch it again."
        ) from error
    except OSError as error:
        raise ValueError(
            f"{file} cannot be read ({error.strerror or error}); check that it is a file and may "
            "be read."
        ) from error
