"""Makes RULER's samples of a task at a length, once a machine, and keeps them on disk.

A file is named after a digest of everything that its samples depend on, and repeats that text in
its first line. Runs without OpenCompass.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.counting import CountingTokenizer
from opencompass_llada.benchmarks.ruler.aggregation import CommonWordsWriter, make_frequent_words
from opencompass_llada.benchmarks.ruler.prompts import (
    NiahTask,
    QuestionTask,
    RulerSpec,
    TracingTask,
)
from opencompass_llada.benchmarks.ruler.retrieval import NiahWriter, QuestionWriter, TracingWriter
from opencompass_llada.benchmarks.ruler.sources import (
    adjective_nouns,
    find_ruler_file,
    plain_words,
    read_essay_words,
    read_library,
    words_digest,
)
from opencompass_llada.benchmarks.ruler.writer import (
    NoRoom,
    RulerSample,
    Writer,
    find_num_items,
    fit_samples,
)
from opencompass_llada.files import CACHE_VARIABLE, remove_left_overs, replacing, user_cache
from opencompass_llada.runs.hashes import hash_file

logger = logging.getLogger(__name__)

DIGITS_IN_NAME = 20
MAX_LENGTHS_TRIED = 40


def build_samples(spec: RulerSpec, tokenizer: CountingTokenizer) -> list[RulerSample]:
    """Return a data set's samples, from disk where they are.

    Raises:
        MissingDataError: If a data file is not there.
        ValueError: If the length is too small; names one that fits.
    """
    data_file, folder = find_data_file(spec), user_cache("ruler")
    if folder is None:
        return _build_or_say_length(spec, tokenizer, data_file)
    key = json.dumps(describe_dependencies(spec, tokenizer, data_file), sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:DIGITS_IN_NAME]
    path = folder / f"{spec.task}_{spec.length}_{digest}.jsonl.gz"
    samples = _read_samples(path, key, spec.num_samples)
    if samples is None:
        samples = _build_or_say_length(spec, tokenizer, data_file)
        _write_samples(path, key, samples)
    return samples


def find_data_file(spec: RulerSpec) -> Path | None:
    """Return the file that a data set's texts come from; None for generated ones."""
    if isinstance(spec.facts, QuestionTask):
        return find_ruler_file(spec.path, spec.facts.file)
    if isinstance(spec.facts, NiahTask) and spec.facts.haystack == "essay":
        return find_ruler_file(spec.path, spec.essay_file)
    return None


def describe_dependencies(
    spec: RulerSpec, tokenizer: CountingTokenizer, data_file: Path | None
) -> dict[str, Any]:
    """Return everything that a data set's samples depend on; no paths, which may differ."""
    elsewhere = ("path", "essay_file", "tokenizer", "benchmark")
    return {
        **{name: value for name, value in asdict(spec).items() if name not in elsewhere},
        "facts": asdict(spec.facts),
        "tokenizer": tokenizer.identity(),
        "template": tokenizer.template() if spec.chat else None,
        "data": None if data_file is None else hash_file(data_file),
        "words": words_digest(),
        "sources": sources_digest(),
    }


def _build_or_say_length(
    spec: RulerSpec, tokenizer: CountingTokenizer, data_file: Path | None
) -> list[RulerSample]:
    try:
        return list(_generate(spec, partial(tokenizer.count, as_turn=spec.chat), data_file))
    except NoRoom as fault:
        raise ValueError(
            f"length={spec.length} is too small for RULER's {spec.task}: its smallest prompt has "
            f"{fault.needed} tokens (tokenizer {spec.tokenizer}) and the answer is given "
            f"{spec.reserve}; the smallest length that fits is "
            f"{find_smallest_length(spec, tokenizer, data_file, fault)}."
        ) from fault


def find_smallest_length(
    spec: RulerSpec, tokenizer: CountingTokenizer, data_file: Path | None, fault: NoRoom
) -> int:
    """Return the smallest length that a data set can be made for, by making it.

    Begins with what the fault, raised at the length that is too small, says is needed.
    """
    length, count = spec.length, partial(tokenizer.count, as_turn=spec.chat)
    for _ in range(MAX_LENGTHS_TRIED):
        length = max(length + 1, fault.needed + spec.reserve)
        try:
            for _ in _generate(replace(spec, length=length), count, data_file):
                pass
        except NoRoom as again:
            fault = again
        else:
            break
    return length


def _generate(
    spec: RulerSpec, count: Callable[[str], int], data_file: Path | None
) -> Iterator[RulerSample]:
    if spec.task == "fwe":
        return make_frequent_words(spec, count)
    writer, limit = make_writer(spec, data_file), spec.length - spec.reserve
    num_items = find_num_items(writer, count, limit)
    if writer.most is not None and num_items >= writer.most:
        logger.warning(
            "RULER's %s at length=%d: all %d items of %s are in each prompt and do not fill it; "
            "its score is of a shorter text (see num_tokens).",
            spec.task,
            spec.length,
            writer.most,
            "the word list" if data_file is None else data_file.name,
        )
    return fit_samples(writer, count, num_items, limit=limit, num_samples=spec.num_samples)


def make_writer(spec: RulerSpec, data_file: Path | None) -> Writer:
    """Return what writes a data set's samples; fwe has a fit of its own."""
    facts = spec.facts
    if isinstance(facts, NiahTask):
        essay = () if data_file is None else read_essay_words(data_file)
        return NiahWriter(spec, facts, adjective_nouns(), essay)
    if isinstance(facts, TracingTask):
        return TracingWriter(spec, facts)
    if spec.task == "cwe":
        return CommonWordsWriter(spec, plain_words())
    if isinstance(facts, QuestionTask) and data_file is not None:
        return QuestionWriter(spec, facts, read_library(data_file, facts.layout))
    raise TypeError(f"{spec.task} has no writer")


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """Return a digest of this package's own code: changed code makes other samples."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _read_samples(path: Path, key: str, num_samples: int) -> list[RulerSample] | None:
    """Return the samples of a file, or None where there is no whole file of so many."""
    if not path.is_file():
        return None
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
            if json.loads(next(lines))["key"] != key:
                raise ValueError("it belongs to another set")
            rows = [json.loads(line) for line in lines]
        samples = [RulerSample(**{**row, "answers": tuple(row["answers"])}) for row in rows]
        if len(samples) != num_samples:
            raise ValueError(f"it holds {len(samples)} samples")
    except (OSError, EOFError, ValueError, KeyError, TypeError, StopIteration, zlib.error) as e:
        logger.warning("%s is not usable and is made again: %s", path, e or type(e))
        return None
    return samples


def _write_samples(path: Path, key: str, samples: Sequence[RulerSample]) -> None:
    """Write a file that other processes see whole or not; log where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_left_overs(path.parent, recursive=False)
        # Several tasks of a run may make the same set at the same time.
        with (
            replacing(path) as temporary,
            gzip.open(temporary, "wt", 1, encoding="utf-8", newline="") as lines,
        ):
            for row in [{"key": key}, *map(asdict, samples)]:
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        logger.warning(
            "RULER's samples cannot be kept (%s); set %s to a folder that can be written.",
            error,
            CACHE_VARIABLE,
        )
