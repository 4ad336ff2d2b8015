"""Finds and reads published files of data, and names file and line where one is damaged.

Knows JSON, UTF-8 (with or without a byte order mark) and where OpenCompass looks; no benchmark.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opencompass_llada.assets import resolve_path
from opencompass_llada.options import check_value


class MissingDataError(ValueError):
    """A file that a data set needs is not where it was looked for; the text says what to do."""

    def __init__(self, message: str, topic: str = "") -> None:
        """Keep a name of `benchmark.DataFiles`, ``tiktoken``, or '' for the user's files."""
        super().__init__(message)
        self.topic = topic


def find_data(path: str, *, benchmark: str, how_to_get: str) -> Path:
    """Find the folder, or the one file, of a benchmark's data.

    Args:
        path: ``asset:NAME``, a folder or file, or a data set id (``opencompass/needlebench``),
            which goes through COMPASS_DATA_CACHE, OpenCompass's own cache and download, or the
            hub if DATASET_SOURCE=HF. Without OpenCompass a path is looked for here and below
            COMPASS_DATA_CACHE, and nothing is downloaded.
        benchmark: Its name, for the error; in lower case the doctor's name of it.
        how_to_get: What the error says is to be done.

    Raises:
        MissingDataError: If there is nothing there and it cannot be downloaded.
    """
    location = Path(resolve_path(path))
    if location.exists():
        return location
    reason = "no such folder"
    if not location.is_absolute():
        try:
            location = opencompass_location(path)
        except Exception as error:
            location = _expected_location(path)
            reason = _opencompass_said(error)
            if isinstance(error, ImportError):
                reason += "; only it knows data set ids and downloads them, without it give a path"
    if not location.exists():
        raise MissingDataError(
            f"{benchmark}'s data was not found at path={path!r} "
            f"{_looked_at(location, reason)}. {how_to_get}",
            benchmark.lower().replace(" ", "_"),
        )
    return location


def find_file(folder: str, name: str, *, benchmark: str, how_to_get: str) -> Path:
    """Find one file of a benchmark whose files OpenCompass downloads one by one; see `find_data`.

    A relative folder (``data/ruler``) is looked for in COMPASS_DATA_CACHE and OpenCompass's cache.
    """
    location, reason = Path(resolve_path(folder)), "no such file"
    file = location / name
    if not location.is_dir() and not location.is_absolute():
        from opencompass.utils import get_data_path

        wanted = os.path.join(folder, name)
        try:
            file = Path(get_data_path(wanted, local_mode=True))
        except Exception as error:
            file = Path(os.environ.get("COMPASS_DATA_CACHE", ""), wanted)
            reason = _opencompass_said(error)
    if not file.is_file():
        raise MissingDataError(
            f"{benchmark}'s file {name!r} was not found at path={folder!r} "
            f"{_looked_at(file, reason)}. {how_to_get}",
            benchmark.lower(),
        )
    return file


def opencompass_location(path: str) -> Path:
    """Return what OpenCompass resolves a data set id to, downloading it if need be."""
    from opencompass.utils import get_data_path

    location = get_data_path(path)
    if os.environ.get("DATASET_SOURCE") == "HF":
        from huggingface_hub import snapshot_download

        location = snapshot_download(repo_id=location, repo_type="dataset")
    return Path(location)


def _expected_location(path: str) -> Path:
    """Return where OpenCompass looks for a data set id, or a path, before it downloads it."""
    try:
        from opencompass.utils.datasets_info import DATASETS_MAPPING
    except ImportError:
        local = path
    else:
        local = DATASETS_MAPPING.get(path, {}).get("local", path)
    return Path(os.environ.get("COMPASS_DATA_CACHE", ""), local)


def _opencompass_said(error: Exception) -> str:
    first_line = str(error).partition("\n")[0]
    return f"OpenCompass: {type(error).__name__}: {first_line[:200]}"


def _looked_at(location: Path, reason: str) -> str:
    cache = os.environ.get("COMPASS_DATA_CACHE") or "not set"
    return f"(looked at {location}; COMPASS_DATA_CACHE is {cache}; {reason})"


def read_text(path: Path) -> str:
    """Return a file's text; a ValueError names a file that is not UTF-8, or cannot be read."""
    with _naming(path):
        return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; a ValueError names file and line."""
    text = read_text(path)
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(
            f"{path}{line}: not valid JSON ({error}; the file has {len(text)} characters); it is "
            "half-written or damaged. Fetch it again."
        ) from error
    _refuse_half_characters(found, str(path))
    return found


def read_json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the object of each line that is not blank, with its place before it.

    Raises a ValueError for a line that is no JSON object or not UTF-8; it names file and line.
    """
    # Lines end at \n only: other separators stand inside texts.
    with _naming(path), path.open(encoding="utf-8-sig", newline="\n") as lines:
        yield from parse_json_lines(lines, str(path))


def parse_json_lines(lines: Iterable[str], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield as `read_json_lines` does, from lines (with their ends) of any source of that name."""
    with _naming(name):
        for number, text in enumerate(lines, start=1):
            if text.strip():
                where = f"{name}, line {number}"
                yield where, parse_json_line(text, where)


def parse_json_line(text: str, where: str) -> Mapping[str, Any]:
    """Return the JSON object of one line of a jsonl file."""
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
    _refuse_half_characters(row, where)
    return row


def take(row: Mapping[str, Any], name: str, where: str, expected: Any = str) -> Any:
    """Return a field of a row, in a type of `options.check_value`; a ValueError says where."""
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


def _refuse_half_characters(row: Any, where: str) -> None:
    """Refuse half of a surrogate pair, which no tokenizer and no file takes."""
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
