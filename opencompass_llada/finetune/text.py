"""Text sources, one document at a time, and the tokenizer that is trained on them.

Tokenises nothing and packs nothing.

Digits are one token each, which retrieval of numbers needs; any byte can be encoded.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.prompting.encode import EOT_TOKEN
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
                yield _document({source.text_field: _read_text(file)}, source, str(file))


def _document(row: Mapping[str, Any], source: TextSource, place: str) -> Document:
    if not isinstance(row, Mapping):
        raise ValueError(
            f"text source: {place} is no JSON object but {str(row)[:40]!r}. Give one object a line."
        )
    fields = [source.text_field, *([source.prompt_field] if source.prompt_field else [])]
    for field in fields:
        if field not in row:
            raise ValueError(
                f"text source: {place} has no field {field!r}; it has {', '.join(row)}. Set "
                f"{'text_field' if field == source.text_field else 'prompt_field'}."
            )
        if not isinstance(row[field], str):
            raise ValueError(
                f"text source: field {field!r} of {place} is no text but {str(row[field])[:40]!r}. "
                "Correct the row, or name another field."
            )
        _check_text(row[field], place)
    return Document(*(row[field] for field in fields))


def _check_text(text: str, place: str) -> None:
    """Refuse what no tokenizer reads, and what no document holds."""
    if "\0" in text:
        raise ValueError(
            f"text source: {place} holds NUL characters, as binary files and UTF-16 do. Convert it "
            "to UTF-8, or leave it out."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text source: {place} holds half a surrogate pair ({text[error.start]!r} at character "
            f"{error.start}), which is no character. Write the text again as UTF-8."
        ) from error


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


def _read_json_lines(file: Path, source: TextSource) -> Iterator[Document]:
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
        yield _document(row, source, place)


def _read_parquet(file: Path, source: TextSource) -> Iterator[Document]:
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        _document(dict.fromkeys(table.schema_arrow.names, ""), source, str(file))
        columns = [source.text_field, *([source.prompt_field] if source.prompt_field else [])]
        for batch in table.iter_batches(batch_size=64, columns=columns):
            for row in batch.to_pylist():
                yield _document(row, source, f"row {number} of {file}")
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"text source: {file} is not a readable Parquet file ({error}). Fetch it again."
        ) from error


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
    for number, row in enumerate(_rows_of(rows, source)):
        if source.num_documents and number >= source.num_documents:
            return
        yield _document(row, source, f"row {number} of data set {source.dataset!r}")


def _rows_of(rows: Iterable[Mapping[str, Any]], source: TextSource) -> Iterator[Mapping[str, Any]]:
    """Yield a data set's rows; a damaged file shows when its rows are read."""
    if isinstance(rows, Mapping):
        raise ValueError(
            f"text source: dataset={source.dataset!r} holds the splits {', '.join(rows)}; name the "
            "folder of one of them."
        )
    reader = iter(rows)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except Exception as error:  # pyarrow, the file system and the hub have kinds of their own
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"text source: dataset={source.dataset!r} cannot be read to its end "
                f"({type(error).__name__}: {reason}). Fetch it again."
            ) from error
        yield row


EOS_TOKEN = "<|endoftext|>"
MASK_TOKEN = "<|mdm_mask|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer.

    Args:
        texts: Training text.
        vocab_size: Entries, special tokens included.

    Returns:
        A tokenizer that saves and loads with AutoTokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS_TOKEN, EOT_TOKEN, MASK_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token=EOS_TOKEN,
        mask_token=MASK_TOKEN,
        additional_special_tokens=[EOT_TOKEN],
        clean_up_tokenization_spaces=False,
    )
