"""Tokenised text as memory-mapped arrays, made once for a text and a tokenizer.

A cache folder is named after a digest of everything that its tokens depend on. Packs nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opencompass_llada.files import remove_left_overs, replacing, temporary_name, user_cache
from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.text import Document, matching_files, read_documents
from opencompass_llada.logs import get_logger

logger = get_logger(__name__)

Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]
_FORMAT = 2  # of the files and how text is tokenised; another number makes other folders
_BATCH = 64  # documents that are tokenised together


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizedText:
    """The documents of one source, each followed by the end-of-document token.

    Attributes:
        tokens: int32, all documents one after another.
        ends: int64 [documents], where each ends in ``tokens``, its end token included.
        prompt_lengths: int32 [documents], tokens at its beginning that are never masked.
        has_end: Whether each document is followed by an end token (a tokenizer may have none).
        digest: SHA-256 of the arrays above: what is trained on.
        files: Digest by name of the files that the text was read from.
    """

    tokens: np.ndarray
    ends: np.ndarray
    prompt_lengths: np.ndarray
    has_end: bool = True
    digest: str = ""
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def num_documents(self) -> int:
        """Documents."""
        return len(self.ends)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document without its end token, int64 [documents]."""
        return np.diff(self.ends, prepend=0) - int(self.has_end)

    def piece(self, document: int, start: int, stop: int) -> np.ndarray:
        """Return tokens start .. stop - 1 of a document; one more than it has is its end token."""
        first = int(self.ends[document - 1]) if document else 0
        return self.tokens[first + start : first + stop]


def default_folder() -> Path | None:
    """Return where tokens are kept by default; None if OPENCOMPASS_LLADA_CACHE says ``none``."""
    return user_cache("tokens")


def describe_source(source: TextSource) -> dict[str, Any]:
    """Return what a source's text depends on: its options, and its files' names and digests.

    Of a data set's folder it is the files' sizes and times, of a hub id the id alone: a new version
    on the hub needs another cache folder.
    """
    facts = dataclasses.asdict(source)
    del facts["weight"], facts["paths"]
    files = [(file.name, _file_digest(file)) for file in matching_files(source)]
    folder = Path(os.path.expandvars(source.dataset or ""))
    if source.dataset is not None and folder.is_dir():
        found = [(file.relative_to(folder), file.stat()) for file in sorted(folder.rglob("*"))]
        files += [(str(name), f"{stat.st_size}-{stat.st_mtime_ns}") for name, stat in found]
    return {**facts, "files": files}


def _file_digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def tokenize_source(
    source: TextSource,
    encode: Encode,
    *,
    end_token_id: int | None,
    tokenizer_digest: str,
    folder: Path | None,
    max_document_tokens: int | None = None,
) -> TokenizedText:
    """Return a source's tokens, from disk where they are.

    Args:
        source: Where the text comes from.
        encode: Turns a list of texts into lists of token ids.
        end_token_id: Put after each document; None for nothing.
        tokenizer_digest: Of everything that decides the tokenizer's output.
        folder: Where tokens are kept; None for a temporary folder that nothing else uses.
        max_document_tokens: Longest document allowed; None for any.

    Returns:
        The tokens, memory-mapped.

    Raises:
        ValueError: If the source is wrong, holds no document, or a document is too long.
    """
    key: dict[str, Any] = {
        "format": _FORMAT,
        "source": describe_source(source),
        "tokenizer": tokenizer_digest,
        "end_token_id": end_token_id,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    try:
        temporary = Path(tempfile.gettempdir())
        root = folder or temporary / temporary_name("opencompass-llada-tokens")
        remove_left_overs(temporary, recursive=False)
        remove_left_overs(root, recursive=False)
        try:
            text = _read(root / name)
            if text is None:
                _write(root / name, key, _encoded(source, encode, end_token_id))
                text = _read(root / name)
            else:
                logger.info("Tokens of %s read from %s", source, root / name)
        finally:
            if folder is None:  # the mapping keeps the data until it is closed
                shutil.rmtree(root, ignore_errors=True)
    except OSError as error:
        raise ValueError(
            f"cache_dir: the tokens of the text cannot be kept in {str(folder or 'a temporary ')!r}"
            f" ({error.strerror or error}). Name a folder that can be written to and has room, or "
            "cache_dir=none."
        ) from error
    assert text is not None, "just written"
    text = dataclasses.replace(
        text, has_end=end_token_id is not None, files=dict(key["source"]["files"])
    )
    _check(text, source, max_document_tokens)
    return text


def _read(folder: Path) -> TokenizedText | None:
    """Open a cache folder; None where there is none, or its arrays are not what was written."""
    if not (folder / "key.json").is_file():
        return None
    try:
        arrays = _load(folder)
        written = json.loads((folder / "key.json").read_text(encoding="utf-8"))["sha256"]
        whole = written == (digest := _digest(arrays))
    except (OSError, ValueError, KeyError, EOFError):
        whole = False
    if not whole:
        logger.warning("Tokens in %s are damaged and are made anew", folder)
        shutil.rmtree(folder)
        return None
    return TokenizedText(tokens=arrays[0], ends=arrays[1], prompt_lengths=arrays[2], digest=digest)


def _load(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.memmap(folder / "tokens.bin", np.int32, "r"),
        np.load(folder / "ends.npy", allow_pickle=False),
        np.load(folder / "prompt_lengths.npy", allow_pickle=False),
    )


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _check(text: TokenizedText, source: TextSource, cap: int | None) -> None:
    longest = int(text.lengths.argmax())
    if cap is not None and text.lengths[longest] > cap:
        raise ValueError(
            f"text source: document {longest} has {text.lengths[longest]} tokens, more than "
            f"max_document_tokens={cap}. Raise it, or leave it out to cut long documents into "
            f"consecutive windows. Source: {source}"
        )


def _encoded(
    source: TextSource, encode: Encode, end_token_id: int | None
) -> Iterator[tuple[list[int], int]]:
    """Yield each document's tokens with its end token, and the length of its prompt."""
    end = [] if end_token_id is None else [end_token_id]
    for batch in _batches(read_documents(source)):
        texts = encode([document.text for document in batch])
        with_prompt = [document.prompt for document in batch if document.prompt]
        prompts = iter(encode(with_prompt) if with_prompt else [])
        for document, ids in zip(batch, texts, strict=True):
            prompt = list(next(prompts)) if document.prompt else []
            yield [*prompt, *ids, *end], len(prompt)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for document in documents:
        if not document.text:
            continue
        batch.append(document)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _write(target: Path, key: dict[str, Any], documents: Iterator[tuple[list[int], int]]) -> None:
    """Write all files beside the target and move them into place: whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(target) as part:
            part.mkdir()
            ends, prompts, total = [], [], 0
            with (part / "tokens.bin").open("wb") as file:
                for ids, prompt_length in documents:
                    file.write(np.array(ids, np.int32).tobytes())
                    total += len(ids)
                    ends.append(total)
                    prompts.append(prompt_length)
            if not ends:
                raise ValueError(
                    f"text source holds no document with text: {key['source']}. Correct it or "
                    "leave it out."
                )
            np.save(part / "ends.npy", np.array(ends, np.int64))
            np.save(part / "prompt_lengths.npy", np.array(prompts, np.int32))
            digest = _digest(_load(part))
            text = json.dumps({**key, "sha256": digest}, sort_keys=True)
            (part / "key.json").write_text(text, encoding="utf-8")
    except OSError:
        if not (target / "key.json").is_file():  # else another process was faster
            raise
