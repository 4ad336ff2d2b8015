"""Reading text sources: files, Parquet, data sets and generated documents, one document at a time.

Tokenises nothing and packs nothing.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from opencompass_llada.finetune.recipe_parts import TextSource
from opencompass_llada.synthetic import generate_documents


class Document(NamedTuple):
    """One document: the text to train on, and what stands before it."""

    text: str
    prompt: str = ""


#: Endings of files that are one document each, and of files with a document a row.
TEXT, ROWS = (".txt", ".md"), (".json", ".jsonl", ".parquet")


def matching_files(source: TextSource) -> list[Path]:
    """Return a source's files, in the order of its globs and sorted in each.

    Raises:
        ValueError: If no file matches a glob, or a match is a folder or of another kind of file.
    """
    files: list[Path] = []
    for path in source.paths:
        found = sorted(glob.glob(os.path.expandvars(path)))
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
        if file.suffix not in (*TEXT, *ROWS):
            raise ValueError(
                f"text source: {str(file)!r} ends in {file.suffix!r}; read are "
                f"{', '.join(TEXT)} (a document a file) and {', '.join(ROWS)} (a document a row). "
                "Rename the file, or narrow the glob."
            )
    return files


def read_documents(source: TextSource) -> Iterator[Document]:
    """Yield the documents of a source.

    Args:
        source: Files, a data set or generated documents.

    Yields:
        One document at a time.

    Raises:
        ValueError: If no file matches a path, a row is no JSON or lacks the text field, or the
            data set cannot be loaded.
    """
    if source.generated_seed is not None:
        for document in generate_documents(source.generated_seed, source.num_documents):
            yield Document(document["text"])
    elif source.dataset is not None:
        yield from _read_dataset(source)
    else:
        for file in matching_files(source):
            if file.suffix in (".jsonl", ".json"):
                yield from _read_json_lines(file, source)
            elif file.suffix == ".parquet":
                yield from _read_parquet(file, source)
            else:
                yield Document(file.read_text(encoding="utf-8"))


def _document(row: Mapping[str, Any], source: TextSource, place: str) -> Document:
    fields = [source.text_field, *([source.prompt_field] if source.prompt_field else [])]
    for field in fields:
        if field not in row:
            raise ValueError(
                f"text source: {place} has no field {field!r}; it has {', '.join(row)}. Set "
                f"{'text_field' if field == source.text_field else 'prompt_field'}."
            )
        if not isinstance(row[field], str):
            raise ValueError(f"text source: field {field!r} of {place} is no text.")
    return Document(*(row[field] for field in fields))


def _read_json_lines(file: Path, source: TextSource) -> Iterator[Document]:
    # Not splitlines, which also breaks at U+2028 and the like, which JSON strings may hold.
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        place = f"line {number} of {file}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"text source: {place} is not a JSON object ({error}). Give one object a line, or "
                "name a text file .txt."
            ) from error
        yield _document(row, source, place)


def _read_parquet(file: Path, source: TextSource) -> Iterator[Document]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(
            f"text source: {file} is not a readable Parquet file ({error})."
        ) from error
    _document(dict.fromkeys(table.schema_arrow.names, ""), source, str(file))
    columns = [source.text_field, *([source.prompt_field] if source.prompt_field else [])]
    for batch in table.iter_batches(batch_size=64, columns=columns):
        for number, row in enumerate(batch.to_pylist()):
            yield _document(row, source, f"row {number} of a batch of {file}")


def _read_dataset(source: TextSource) -> Iterator[Document]:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("text source: dataset=... needs the package datasets") from error
    name = os.path.expandvars(str(source.dataset))
    try:
        if Path(name).is_dir() and (Path(name) / "state.json").is_file():
            rows = datasets.load_from_disk(name)
        else:
            rows = datasets.load_dataset(
                name,
                source.dataset_config,
                split=source.split,
                streaming=True,
                trust_remote_code=False,
            )
    except Exception as error:  # any network, cache or hub error ends in the same remedy
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"text source: dataset={source.dataset!r} (split {source.split!r}) could not be loaded "
            f"({type(error).__name__}: {reason}). Check the name, or download it and give paths."
        ) from error
    for number, row in enumerate(rows):
        if source.num_documents and number >= source.num_documents:
            return
        yield _document(row, source, f"row {number} of data set {source.dataset!r}")
