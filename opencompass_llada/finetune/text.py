"""Reads text sources one document at a time: files, data sets, generated documents.

Files are not read by the package datasets, whose errors name neither line nor remedy.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.synthetic.grammar import generate_documents


class Document(NamedTuple):
    """One document: the text to train on, and what stands before it."""

    text: str
    prompt: str = ""


#: Endings of files that are one document each, and of files with a document a row.
TEXT, ROWS = (".txt", ".md"), (".json", ".jsonl", ".parquet")


def matching_files(source: TextSource) -> list[Path]:
    """Return a source's files, in the order of its globs and sorted in each; refuse others."""
    files: list[Path] = []
    for path in source.paths:
        try:
            found = sorted(glob.glob(os.path.expandvars(path)))
        except re.error as error:
            raise ValueError(f"text source: path {path!r} is no glob ({error}).") from error
        if not found:
            raise ValueError(
                f"text source: no file matches path {path!r}. Correct the glob, set the "
                "environment variables in it, or use generated_seed."
            )
        files += map(Path, found)
    for file in files:
        if file.is_dir():
            raise ValueError(
                f"text source: path {str(file)!r} is a folder; name its files: '{file}/*.txt'."
            )
        if not file.is_file() or not os.access(file, os.R_OK):
            what = "a broken link" if not file.exists() else "no file that can be read"
            raise ValueError(
                f"text source: path {str(file)!r} is {what}. Restore it, or narrow the glob."
            )
        if file.suffix not in (*TEXT, *ROWS):
            raise ValueError(
                f"text source: {str(file)!r} ends in {file.suffix!r}; read are "
                f"{', '.join(TEXT)} (a document a file) and {', '.join(ROWS)} (a document a row). "
                "Rename the file, or narrow the glob."
            )
    return files


def read_documents(source: TextSource) -> Iterator[Document]:
    """Yield the documents of a source; a ValueError names what cannot be read as text."""
    if source.generated_seed is not None:
        for document in generate_documents(source.generated_seed, source.num_documents):
            yield Document(document["text"])
        return
    rows = _dataset_rows(source) if source.dataset is not None else _file_rows(source)
    for place, row in rows:
        yield _document(row, source, place)


def _fields(source: TextSource) -> list[str]:
    return list(filter(None, (source.text_field, source.prompt_field)))


def _document(row: Any, source: TextSource, place: str) -> Document:
    """Return a row's document, checked."""
    if not isinstance(row, Mapping):
        raise ValueError(
            f"text source: {place} is no JSON object but {str(row)[:40]!r}. Give one object a line."
        )
    for field in _fields(source):
        if field not in row:
            raise ValueError(
                f"text source: {place} has no field {field!r}; it has {', '.join(row)}. Set "
                f"{'text_field' if field == source.text_field else 'prompt_field'}."
            )
        text = row[field]
        if not isinstance(text, str):
            raise ValueError(
                f"text source: field {field!r} of {place} is no text but {str(text)[:40]!r}. "
                "Correct the row, or name another field."
            )
        if "\0" in text:
            raise ValueError(
                f"text source: {place} holds NUL characters, as binary files and UTF-16 do. "
                "Convert it to UTF-8, or leave it out."
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text source: {place} holds half a surrogate pair ({text[error.start]!r} at "
                f"character {error.start}), which is no character. Write the text again as UTF-8."
            ) from error
    return Document(*(row[field] for field in _fields(source)))


Rows = Iterator[tuple[str, Any]]  # what messages call a row, and the row


def _file_rows(source: TextSource) -> Rows:
    for file in matching_files(source):
        if file.suffix in TEXT:
            yield str(file), {source.text_field: _read_text(file)}
        elif file.suffix == ".parquet":
            yield from _parquet_rows(file, source)
        else:
            yield from _json_rows(file)


def _read_text(file: Path) -> str:
    """Return a file's text; a byte order mark at its start is none of it."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text source: {file} is not UTF-8 (byte 0x{error.object[error.start]:02x} at "
            f"{error.start}). Convert it, from Latin-1 for instance: iconv -f latin1 -t utf-8."
        ) from error
    except OSError as error:
        raise ValueError(f"text source: {file} cannot be read ({error.strerror}).") from error


def _json_rows(file: Path) -> Rows:
    # Not splitlines, which also breaks at U+2028 and the like, which JSON strings may hold.
    for number, line in enumerate(_read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"line {number} of {file}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"text source: {place} is not a JSON object ({error}). Give one object a line, or "
                "name a text file .txt."
            ) from error
        yield place, row


def _parquet_rows(file: Path, source: TextSource) -> Rows:
    import pyarrow.parquet

    number = itertools.count()
    try:
        table = pyarrow.parquet.ParquetFile(file)
        _document(dict.fromkeys(table.schema_arrow.names, ""), source, str(file))
        for batch in table.iter_batches(batch_size=64, columns=_fields(source)):
            for row in batch.to_pylist():
                yield f"row {next(number)} of {file}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"text source: {file} is not a readable Parquet file ({error}). Fetch it again."
        ) from error


def _dataset_rows(source: TextSource) -> Rows:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("text source: dataset=... needs the package datasets") from error
    name = os.path.expandvars(str(source.dataset))
    try:
        if Path(name).is_dir() and (Path(name) / "state.json").is_file():
            rows: Iterable[Any] = datasets.load_from_disk(name)
        else:
            how = {"split": source.split, "streaming": True, "trust_remote_code": False}
            rows = datasets.load_dataset(name, source.dataset_config, **how)
    except Exception as error:  # any network, cache or hub error ends in the same remedy
        raise ValueError(
            f"text source: dataset={source.dataset!r} (split {source.split!r}) could not be loaded "
            f"({_reason(error)}). Check the name, or download it and give paths."
        ) from error
    if isinstance(rows, Mapping):
        raise ValueError(
            f"text source: dataset={source.dataset!r} holds the splits {', '.join(rows)}; name the "
            "folder of one of them."
        )
    try:
        for number, row in enumerate(itertools.islice(rows, source.num_documents or None)):
            yield f"row {number} of data set {source.dataset!r}", row
    except Exception as error:  # pyarrow, the file system and the hub have kinds of their own
        raise ValueError(
            f"text source: dataset={source.dataset!r} cannot be read to its end "
            f"({_reason(error)}). Fetch it again."
        ) from error


def _reason(error: Exception) -> str:
    line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {line}"
