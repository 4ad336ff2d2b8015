"""Tokenises text sources in several processes into a cache on disk, once for the same input.

A cache folder is named after a digest of everything that its tokens depend on. The cache of the
package datasets is not: it knows the mapping function's code, not what is in files and tokenizer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from opencompass_llada.files import (
    FolderInUse,
    folder_lock,
    remove_left_overs,
    temporary_name,
    user_cache,
)
from opencompass_llada.finetune.encoding import encode_chunks, read_chunks
from opencompass_llada.finetune.packing import TokenizedText
from opencompass_llada.finetune.prompts import describe_samples
from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.text import Position, matching_files
from opencompass_llada.finetune.token_files import TokenWriter, read_progress, read_tokens
from opencompass_llada.finetune.tokens import TrainingTokenizer
from opencompass_llada.runs.hashes import hash_file
from opencompass_llada.runs.machine import count_cores

logger = logging.getLogger(__name__)

_FORMAT = 2  # of the files and how text is tokenised; another number makes other folders
_BAR = "{desc} {percentage:3.0f} %|{bar}| {elapsed}<{remaining}{postfix}"
_LOG_SECONDS, _WAIT_SECONDS = 30.0, 1.0


def default_folder() -> Path | None:
    """Return where tokens are cached; None if OPENCOMPASS_LLADA_CACHE says ``none``."""
    return user_cache("tokens")


@contextmanager
def token_folder(folder: Path | None) -> Iterator[Path]:
    """Give the folder of cached tokens; None makes a temporary one, removed at the end.

    Arrays that are mapped from it by then keep their data.
    """
    if folder is not None:
        yield folder
        return
    temporary = Path(tempfile.gettempdir())
    remove_left_overs(temporary, recursive=False)
    root = temporary / temporary_name("opencompass-llada-tokens")
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def tokenize_source(
    source: TextSource,
    tokens: TrainingTokenizer,
    folder: Path | None,
    *,
    max_document_tokens: int | None = None,
    num_processes: int | None = None,
) -> TokenizedText:
    """Return a source's tokens, memory-mapped, from the cache in a folder where they are there.

    Without a folder a temporary one is used. ``num_processes`` (None: the cores that this process
    may use) changes nothing in the tokens. A ValueError says that the source is wrong, holds no
    document, or holds one that is longer than what is allowed.
    """
    described = _describe_source(source) | describe_samples(source, tokens)
    key = {
        "format": _FORMAT,
        "source": described,
        "tokenizer": tokens.digest,
        "end_token_id": tokens.end_token_id,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    try:
        with token_folder(folder) as root:
            remove_left_overs(root, recursive=False)
            text = read_tokens(root / name)
            if text is None:
                text = _make(root / name, key, source, tokens, num_processes or count_cores())
            else:
                logger.info("Tokens of %s read from %s", source, root / name)
    except OSError as error:
        raise ValueError(
            f"cache_dir: the tokens of the text cannot be kept in {str(folder or 'a temporary ')!r}"
            f" ({error.strerror or error}). Name a folder that can be written to and has room, or "
            "cache_dir=none."
        ) from error
    longest = int(text.lengths.argmax())
    if max_document_tokens is not None and text.lengths[longest] > max_document_tokens:
        raise ValueError(
            f"text source: document {longest} has {text.lengths[longest]} tokens, more than "
            f"max_document_tokens={max_document_tokens}. Raise it, or leave it out to cut long "
            f"documents into consecutive windows. Source: {source}"
        )
    return dataclasses.replace(
        text,
        has_end=tokens.end_token_id is not None,
        from_prompts=source.prompt_field is not None,
        files=dict(described["files"]),
    )


def _describe_source(source: TextSource) -> dict[str, Any]:
    """Return what a source's text depends on: its options, and its files' names and digests.

    Of a data set's folder sizes and times; of a hub id nothing, so that a new version needs another
    cache folder.
    """
    facts = dataclasses.asdict(source)
    del facts["weight"], facts["paths"]
    if source.prompt_field is None:  # as before there were such keys
        del facts["chat"], facts["answer_end"]
    files = [(file.name, hash_file(file)) for file in matching_files(source)]
    folder = Path(os.path.expandvars(source.dataset or ""))
    if source.dataset is not None and folder.is_dir():
        found = [(file.relative_to(folder), file.stat()) for file in sorted(folder.rglob("*"))]
        files += [(str(name), f"{stat.st_size}-{stat.st_mtime_ns}") for name, stat in found]
    return {**facts, "files": files}


def _make(
    target: Path,
    key: dict[str, Any],
    source: TextSource,
    tokens: TrainingTokenizer,
    num_processes: int,
) -> TokenizedText:
    """Tokenise a source into a folder that is not there, or damaged; wait where another does."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    said = -np.inf
    while True:
        try:
            with folder_lock(unfinished, "the tokenising of a text"):
                text = read_tokens(target)  # another process was faster
                if text is None:
                    shutil.rmtree(target, ignore_errors=True)
                    _write(unfinished / "tokens", target, key, source, tokens, num_processes)
                    text = read_tokens(target)
            break
        except FolderInUse as error:
            if time.monotonic() - said > _LOG_SECONDS:
                said = time.monotonic()
                documents, num_bytes = read_progress(unfinished / "tokens")
                logger.info(
                    "Waiting for the tokens that another process makes, %d documents (%.0f MB) so "
                    "far: %s",
                    documents,
                    num_bytes / 1e6,
                    error,
                )
            time.sleep(_WAIT_SECONDS)
        finally:
            with suppress(OSError):  # it holds what an interrupted process has done
                unfinished.rmdir()
    assert text is not None, "just written"
    return text


def _write(
    folder: Path,
    target: Path,
    key: dict[str, Any],
    source: TextSource,
    tokens: TrainingTokenizer,
    num_processes: int,
) -> None:
    """Tokenise into a folder, going on from what it holds, and move it into place."""
    writer = TokenWriter(folder)
    if writer.num_documents:
        logger.info(
            "Going on from %d documents (%.1f MB) that an interrupted process has tokenised",
            writer.num_documents,
            writer.num_bytes / 1e6,
        )
    position = Position()
    progress = _Progress(writer)
    try:
        chunks = read_chunks(source, position, skip=writer.num_documents)
        for chunk, share in encode_chunks(chunks, source, tokens, num_processes):
            writer.append(chunk)
            progress.show(share)
        if not writer.num_documents:
            raise ValueError(
                f"text source holds no document with text: {key['source']}. Correct it or leave it "
                "out."
            )
    except BaseException:
        if not writer.num_documents:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        progress.close()
    writer.finish(target, key)
    progress.end(target)


class _Progress:
    """Says how far the tokenising is: a bar on a terminal, else a line of the log now and then."""

    def __init__(self, writer: TokenWriter) -> None:
        self._writer = writer
        self._bar: tqdm[Any] | None = None
        self._begun = self._said = time.monotonic()
        self._first = writer.num_bytes
        self._first_share: float | None = None

    def show(self, share: float | None) -> None:
        """Take note of a chunk, read up to that share of the source."""
        if self._first_share is None:  # what an earlier process has read is read in no time
            self._first_share = share
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(
                    total=None if share is None else 100.0,
                    desc="Tokenising",
                    bar_format=None if share is None else _BAR,
                )
            self._bar.update((share or 0.0) * 100.0 - self._bar.n)
            self._bar.set_postfix_str(self._describe())
        elif time.monotonic() - self._said > _LOG_SECONDS:
            self._said = time.monotonic()
            logger.info("Tokenised %s%s", self._describe(), self._expect(share))

    def _describe(self) -> str:
        writer, seconds = self._writer, max(1e-9, time.monotonic() - self._begun)
        rate = (writer.num_bytes - self._first) / 1e6 / seconds
        return f"{writer.num_documents} documents, {writer.num_bytes / 1e6:.1f} MB, {rate:.2f} MB/s"

    def _expect(self, share: float | None) -> str:
        """Return when the end is expected, which a source of unknown length does not tell."""
        begun = self._first_share or 0.0
        if share is None or share <= begun:
            return ""
        left = (time.monotonic() - self._begun) * (1.0 - share) / (share - begun)
        end = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + left))
        return f", {100 * share:.1f} % of the source; end expected in {left:.0f} s, {end}"

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def end(self, target: Path) -> None:
        """Say what was done."""
        tokens = self._writer.num_tokens
        logger.info("Tokenised %s: %d tokens in %s", self._describe(), tokens, target)
