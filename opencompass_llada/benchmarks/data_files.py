"""Finds and reads published files of data, and names file and line where one is damaged.

Knows JSON, parquet, UTF-8 (with or without a byte order mark) and where OpenCompass looks; no
benchmark.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
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


def find_data(path: str, *, benchmark: str, how_to_get: str, name: str | None = None) -> Path:
    """Find the folder, or the one file, of a benchmark's data, or raise a MissingDataError.

    The path is ``asset:NAME``, a folder or file, or a data set id (``opencompass/needlebench``),
    which goes through COMPASS_DATA_CACHE, OpenCompass's own cache and download, or the hub if
    DATASET_SOURCE=HF; without OpenCompass nothing is downloaded. ``name`` is a file in the folder,
    where OpenCompass downloads them one by one. The error takes up the rest.
    """
    folder = Path(resolve_path(path))
    location = folder / (name or "")
    reason = f"no such {'file' if name else 'folder'}"
    if not folder.exists() and not folder.is_absolute():
        try:
            location = _opencompass_file(path, name) if name else opencompass_location(path)
        except Exception as error:
            location = _expected_location(path, name or "")
            first_line = str(error).partition("\n")[0]
            reason = f"OpenCompass: {type(error).__name__}: {first_line[:200]}"
            if isinstance(error, ImportError):
                reason += "; only it knows data set ids and downloads them, without it give a path"
    if not location.exists():
        what = f"file {name!r}" if name else "data"
        cache = os.environ.get("COMPASS_DATA_CACHE") or "not set"
        raise MissingDataError(
            f"{benchmark}'s {what} was not found at path={path!r} (looked at {location}; "
            f"COMPASS_DATA_CACHE is {cache}; {reason}). {how_to_get}",
            benchmark.lower().replace(" ", "_"),
        )
    return location


def opencompass_location(path: str) -> Path:
    """Return what OpenCompass resolves a data set id to, downloading it if need be."""
    from opencompass.utils import get_data_path

    location = get_data_path(path)
    if os.environ.get("DATASET_SOURCE") == "HF":
        from huggingface_hub import snapshot_download

        location = snapshot_download(repo_id=location, repo_type="dataset")
    return Path(location)


def _opencompass_file(folder: str, name: str) -> Path:
    from opencompass.utils import get_data_path

    return Path(get_data_path(os.path.join(folder, name), local_mode=True))


def _expected_location(path: str, name: str) -> Path:
    """Return where OpenCompass looks for a data set id, or a path, before it downloads it."""
    try:
        from opencompass.utils.datasets_info import DATASETS_MAPPING
    except ImportError:
        local = path
    else:
        local = DATASETS_MAPPING.get(path, {}).get("local", path)
    return Path(os.environ.get("COMPASS_DATA_CACHE", ""), local, name)


def read_text(path: Path) -> str:
    """Return a file's text; a ValueError names a file that is not UTF-8, or cannot be read."""
    with _naming(path):
        return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; a ValueError names file and line."""
    return _parse_json(read_text(path), path)


def read_json_list(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a JSON list, each with its place before it."""
    rows = check_value(str(path), read_json(path), Sequence[Any])
    for number, row in enumerate(rows, start=1):
        where = f"{path}, record {number}"
        yield where, check_value(where, row, Mapping[str, Any])


def read_json_lines(path: Path | zipfile.Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the object of each line that is not blank, with its place before it.

    Raises a ValueError for a line that is no JSON object or not UTF-8; it names file and line.
    """
    # Lines end at \n only: other separators stand inside texts.
    with _naming(path), path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, text in enumerate(lines, start=1):
            if text.strip():
                where = f"{path}, line {number}"
                row = _parse_json(text, path, number)
                if not isinstance(row, dict):
                    kind = type(row).__name__
                    raise ValueError(f"{where}: the line must be a JSON object, not {kind}.")
                yield where, row


def read_parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a parquet file, each with its place before it; a ValueError names it."""
    import pyarrow
    from pyarrow import parquet

    with _naming(path):
        try:
            table = parquet.ParquetFile(path)
        except pyarrow.ArrowException as error:
            raise ValueError(
                f"{path}: not a parquet file ({error}); it is half-written or damaged. Fetch it "
                "again."
            ) from error
        number = 0
        for batch in table.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row


def _parse_json(text: str, path: Path | zipfile.Path, line: int | None = None) -> Any:
    """Return the JSON of a file, or of one of its lines; half characters are refused, too."""
    try:
        found = json.loads(text)
        # Half of a surrogate pair, which no tokenizer and no file takes.
        json.dumps(found, ensure_ascii=False).encode()
    except (json.JSONDecodeError, RecursionError) as error:
        place = f", line {line or error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(
            f"{path}{place}: not valid JSON ({error}; the text has {len(text)} characters); it is "
            "half-written or damaged. Fetch it again."
        ) from error
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(
            f"{path}{f', line {line}' if line else ''}: the text holds {half!a}, half of a "
            "surrogate pair and no character; it was cut inside one. Take it out, or fetch the "
            "file again."
        ) from error
    return found


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


@contextmanager
def _naming(file: Path | zipfile.Path) -> Iterator[None]:
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
