"""Reads text sources one document at a time: files, data sets, generated documents.

Memory holds a document and a part of its file: a line of JSON, a batch of rows of Parquet. Files
are not read by the package datasets, whose errors name neither line nor remedy.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.prompting.chat import Turn, read_turns
from opencompass_llada.synthetic.grammar import generate_documents


class Document(NamedTuple):
    """One document: the text to train on, and what stands before it."""

    text: str
    prompt: str | list[Any] = ""
    """A text, or the messages of a conversation, each with its role and content."""


@dataclass
class Position:
    """How far a source has been read: bytes of files, documents of other sources."""

    done: float = 0.0
    total: float | None = None
    """None where nobody knows."""
    unit: str = "documents"

    @property
    def share(self) -> float | None:
        """The share that is read, 0 to 1; None where the total is not known."""
        return min(1.0, self.done / self.total) if self.total else None


#: Bytes of a Parquet file's column that are read at a time, and rows that are decoded together.
_PARQUET_BYTES, _PARQUET_ROWS = 1 << 20, 16
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


def read_documents(source: TextSource, position: Position | None = None) -> Iterator[Document]:
    """Yield the documents of a source; a ValueError names what cannot be read as text.

    ``position`` is kept up to date.
    """
    position = Position() if position is None else position
    if source.generated_seed is not None:
        position.total = source.num_documents
        for document in generate_documents(source.generated_seed, source.num_documents):
            position.done += 1
            yield Document(document["text"])
        return
    read = _file_rows if source.dataset is None else _dataset_rows
    for place, row in read(source, position):
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
        if isinstance(text, list) and field == source.prompt_field and source.chat is not None:
            text = _join_messages(text, field, place)
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


def _join_messages(messages: list[Any], field: str, place: str) -> str:
    """Return all that is said in a conversation, whose last message must be the user's."""
    turns: list[Turn] = []
    if all(isinstance(message, Mapping) and "role" in message for message in messages):
        try:
            turns = read_turns(messages, "ppl")
        except ValueError as error:
            raise ValueError(f"text source: field {field!r} of {place}: {error}") from error
    if not turns or turns[-1].role != "user":
        raise ValueError(
            f"text source: field {field!r} of {place} is no conversation that ends in the user's "
            f"message but {str(messages)[:60]!r}. Give messages, each with role and content."
        )
    return "".join(turn.content for turn in turns)


Rows = Iterator[tuple[str, Any]]  # what messages call a row, and the row


def _file_rows(source: TextSource, position: Position) -> Rows:
    files = matching_files(source)
    sizes = [file.stat().st_size for file in files]
    position.unit, position.total = "bytes", sum(sizes)
    end = 0.0
    for file, size in zip(files, sizes, strict=True):
        end += size
        if file.suffix in TEXT:
            yield str(file), {source.text_field: _read_text(file)}
        elif file.suffix == ".parquet":
            yield from _parquet_rows(file, source, position, size)
        else:
            yield from _json_rows(file, position)
        position.done = end


def _read_text(file: Path) -> str:
    """Return a file's text; a byte order mark at its start is none of it."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error) from error
    except OSError as error:
        raise _not_readable(file, error) from error


def _not_utf8(file: Path, error: UnicodeDecodeError, start: int = 0) -> ValueError:
    """Say which byte of a file is wrong, ``start`` being where what was decoded begins."""
    return ValueError(
        f"text source: {file} is not UTF-8 (byte 0x{error.object[error.start]:02x} at "
        f"{start + error.start}). Convert it, from Latin-1 for instance: iconv -f latin1 -t utf-8."
    )


def _not_readable(file: Path, error: OSError) -> ValueError:
    return ValueError(f"text source: {file} cannot be read ({error.strerror}).")


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    r"""Yield a file's lines and the byte that each begins at; \n, \r and both end a line.

    Not `str.splitlines`, which also breaks at U+2028 and the like, which JSON strings may hold.
    """
    start = 0
    try:
        with file.open("rb") as opened:
            for block in opened:
                for line in block.splitlines(keepends=True):
                    yield start, line
                    start += len(line)
    except OSError as error:
        raise _not_readable(file, error) from error


def _json_rows(file: Path, position: Position) -> Rows:
    for number, (start, line) in enumerate(_lines(file), start=1):
        position.done += len(line)
        try:
            text = line.decode("utf-8" if start else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise _not_utf8(file, error, start) from error
        if not text.strip():
            continue
        place = f"line {number} of {file}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"text source: {place} is not a JSON object ({error}). Give one object a line, or "
                "name a text file .txt."
            ) from error
        yield place, row


def _parquet_rows(file: Path, source: TextSource, position: Position, size: int) -> Rows:
    import pyarrow.parquet

    number = itertools.count()
    try:
        # A buffer size makes Arrow read a column bit by bit, not a whole row group at once.
        table = pyarrow.parquet.ParquetFile(file, buffer_size=_PARQUET_BYTES, pre_buffer=False)
        with table:
            _document(dict.fromkeys(table.schema_arrow.names, ""), source, str(file))
            share = size / max(1, table.metadata.num_rows)
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=_fields(source)):
                for row in batch.to_pylist():
                    position.done += share
                    yield f"row {next(number)} of {file}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"text source: {file} is not a readable Parquet file ({error}). Fetch it again."
        ) from error


def _dataset_rows(source: TextSource, position: Position) -> Rows:
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
    number_there = _number_of(rows)
    if number_there is not None:
        _check_number(source, number_there)
    position.total = source.num_documents or number_there
    try:
        for number, row in enumerate(itertools.islice(rows, source.num_documents or None)):
            position.done += 1
            yield f"row {number} of data set {source.dataset!r}", row
    except Exception as error:  # pyarrow, the file system and the hub have kinds of their own
        raise ValueError(
            f"text source: dataset={source.dataset!r} cannot be read to its end "
            f"({_reason(error)}). Fetch it again."
        ) from error
    _check_number(source, int(position.done))


def _check_number(source: TextSource, number_there: int) -> None:
    if source.num_documents > number_there:
        raise ValueError(
            f"text source: num_documents={source.num_documents} is more than the {number_there} "
            f"documents of dataset={source.dataset!r} (split {source.split!r}). Use "
            f"num_documents={number_there} or fewer, or 0 for all."
        )


def _number_of(rows: Any) -> int | None:
    """Return how many rows a data set has; None for a stream that does not say."""
    if hasattr(rows, "__len__"):
        return len(rows)
    splits, name = getattr(rows.info, "splits", None) or {}, str(rows.split)
    return (splits[name].num_examples or None) if name in splits else None


def _reason(error: Exception) -> str:
    line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {line}"
