"""Encodes documents in chunks, in this process or in several, in the same order and alike.

Knows neither files of tokens nor caches.
"""

from __future__ import annotations

import collections
import itertools
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from opencompass_llada.finetune.parallel import outlive_signals
from opencompass_llada.finetune.prompts import SampleEncoder
from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.text import Document, Position, read_documents
from opencompass_llada.finetune.token_files import EncodedChunk
from opencompass_llada.finetune.tokens import TrainingTokenizer

logger = logging.getLogger(__name__)

#: Characters of the documents that are tokenised together; a longer document is alone.
CHUNK_CHARACTERS = 1_000_000
#: Chunks that the first process tokenises before it starts others: short texts need none.
SERIAL_CHUNKS = 4


class Chunk(NamedTuple):
    """Documents that are tokenised together, and the share of the source read by their end."""

    documents: list[Document]
    share: float | None


def read_chunks(source: TextSource, position: Position, skip: int) -> Iterator[Chunk]:
    """Yield a source's documents that have text, but for the first ``skip``, in chunks."""
    documents = (document for document in read_documents(source, position) if document.text)
    batch: list[Document] = []
    size = 0
    for document in itertools.islice(documents, skip, None):
        batch.append(document)
        size += len(document.text) + len(document.prompt)
        if size >= CHUNK_CHARACTERS:
            yield Chunk(batch, position.share)
            batch, size = [], 0
    if batch:
        yield Chunk(batch, position.share)


def encode_documents(
    documents: Sequence[Document], tokens: TrainingTokenizer, samples: SampleEncoder | None
) -> EncodedChunk:
    """Return each document's prompt and text as tokens, and its end token."""
    end = [] if tokens.end_token_id is None else [tokens.end_token_id]
    if samples is None:
        texts = tokens.encode_all([document.text for document in documents])
        prompts: list[list[int]] = [[]] * len(documents)
    else:
        prompts, texts = samples.encode(documents)
    rows = [[*prompt, *ids, *end] for prompt, ids in zip(prompts, texts, strict=True)]
    return EncodedChunk(
        tokens=np.fromiter(itertools.chain.from_iterable(rows), np.int32, sum(map(len, rows))),
        lengths=np.array([len(row) for row in rows], np.int64),
        prompt_lengths=np.array([len(prompt) for prompt in prompts], np.int32),
        num_bytes=sum(len(str(part).encode()) for document in documents for part in document),
    )


def encode_chunks(
    chunks: Iterator[Chunk], source: TextSource, tokens: TrainingTokenizer, num_processes: int
) -> Iterator[tuple[EncodedChunk, float | None]]:
    """Yield the tokens of the chunks in their order, however many processes make them."""
    samples = None if source.prompt_field is None else SampleEncoder(source, tokens)

    def encode(documents: list[Document]) -> EncodedChunk:
        return encode_documents(documents, tokens, samples)

    for chunk in itertools.islice(chunks, SERIAL_CHUNKS if num_processes > 1 else None):
        yield encode(chunk.documents), chunk.share
    following = next(chunks, None)
    if following is None:
        return
    logger.info("Tokenising in %d processes (tokenizing_processes)", num_processes)
    pending: collections.deque[tuple[Future[EncodedChunk], float | None]] = collections.deque()
    try:
        with _worker_pool(num_processes, encode) as pool:
            for chunk in itertools.chain([following], chunks):
                pending.append((pool.submit(_encode_in_worker, chunk.documents), chunk.share))
                if len(pending) > 2 * num_processes:
                    done, share = pending.popleft()
                    yield done.result(), share
            while pending:
                done, share = pending.popleft()
                yield done.result(), share
    except BrokenProcessPool as error:
        raise ValueError(
            "text source: a process that tokenises was killed, perhaps for lack of memory: each "
            "holds a document, or 1 MB of short ones, about a hundredfold. What is tokenised stays "
            "and the same command goes on; give tokenizing_processes=1 to need less."
        ) from error


#: What a worker process encodes with; it is given once, since a tokenizer is large.
_worker_encode: Callable[[list[Document]], EncodedChunk] | None = None


def _start_worker(encode: Callable[[list[Document]], EncodedChunk]) -> None:
    global _worker_encode
    _worker_encode = encode
    outlive_signals()


def _encode_in_worker(documents: list[Document]) -> EncodedChunk:
    assert _worker_encode is not None, "set when the worker started"
    return _worker_encode(documents)


@contextmanager
def _worker_pool(
    num_processes: int, encode: Callable[[list[Document]], EncodedChunk]
) -> Iterator[ProcessPoolExecutor]:
    """Give processes that end with this one; the tokenizers' own threads stand still meanwhile.

    Forked, as PyTorch's loaders are: a fresh process would import for seconds and hold what this
    one holds a second time.
    """
    variable = "TOKENIZERS_PARALLELISM"
    earlier = os.environ.get(variable)
    os.environ[variable] = "false"
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(num_processes, context, _start_worker, (encode,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        if earlier is None:
            del os.environ[variable]
        else:
            os.environ[variable] = earlier
