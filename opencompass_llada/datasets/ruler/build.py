"""Makes the samples of one data set: finds its texts, fits its prompts, keeps them on disk.

Knows no OpenCompass class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from opencompass_llada.datasets.counting import CountingTokenizer
from opencompass_llada.datasets.ruler.cache import SampleCache, cache_folder, sources_digest
from opencompass_llada.datasets.ruler.common_words import CommonWordsWriter
from opencompass_llada.datasets.ruler.files import file_digest, find_file, read_essay_words
from opencompass_llada.datasets.ruler.fitting import (
    NoRoom,
    RulerSample,
    Writer,
    find_num_items,
    fit_samples,
)
from opencompass_llada.datasets.ruler.frequent_words import make_frequent_words
from opencompass_llada.datasets.ruler.niah import NiahWriter
from opencompass_llada.datasets.ruler.questions import QuestionWriter, read_library
from opencompass_llada.datasets.ruler.tasks import (
    CommonWordsTask,
    FrequentWordsTask,
    NiahTask,
    QuestionTask,
    RulerSpec,
    TracingTask,
)
from opencompass_llada.datasets.ruler.tracing import TracingWriter
from opencompass_llada.datasets.ruler.words import adjective_nouns, plain_words, words_digest
from opencompass_llada.logs import get_logger

logger = get_logger(__name__)

MAX_LENGTHS_TRIED = 40


def build_samples(
    spec: RulerSpec, tokenizer: CountingTokenizer, folder: Path | None = None
) -> list[RulerSample]:
    """Return a data set's samples, from disk where they are.

    Args:
        spec: The data set.
        tokenizer: What counts its tokens.
        folder: Where samples are kept; None for `cache.cache_folder`.

    Raises:
        MissingDataError: If a data file is not there.
        ValueError: If the length is too small; names one that fits.
    """
    data_file = find_data_file(spec)
    kept = folder or cache_folder()
    if kept is None:
        return _build_or_say_length(spec, tokenizer, data_file)
    cache = SampleCache(
        kept, f"{spec.task}_{spec.length}", describe_dependencies(spec, tokenizer, data_file)
    )
    samples = cache.read(spec.num_samples)
    if samples is None:
        samples = _build_or_say_length(spec, tokenizer, data_file)
        cache.write(samples)
    return samples


def find_data_file(spec: RulerSpec) -> Path | None:
    """Return the file that a data set's texts come from; None for generated ones."""
    if isinstance(spec.facts, QuestionTask):
        return find_file(spec.path, spec.facts.file)
    if isinstance(spec.facts, NiahTask) and spec.facts.haystack == "essay":
        return find_file(spec.path, spec.essay_file)
    return None


def describe_dependencies(
    spec: RulerSpec, tokenizer: CountingTokenizer, data_file: Path | None
) -> dict[str, Any]:
    """Return everything that a data set's samples depend on; no paths, which may differ."""
    own = {
        name: value
        for name, value in asdict(spec).items()
        if name not in ("path", "essay_file", "tokenizer", "benchmark")
    }
    return {
        **own,
        "facts": asdict(spec.facts),
        "tokenizer": tokenizer.identity(),
        "template": tokenizer.template() if spec.chat else None,
        "data": None if data_file is None else file_digest(data_file),
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

    Args:
        spec: A data set whose length is too small.
        tokenizer: What counts its tokens.
        data_file: Where its texts come from.
        fault: What making it raised.
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
    if isinstance(spec.facts, FrequentWordsTask):
        return make_frequent_words(spec, spec.facts, count)
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
    """Return what writes a data set's samples.

    Args:
        spec: The data set; of any task but fwe, which has a fit of its own.
        data_file: Where its texts come from.
    """
    facts = spec.facts
    if isinstance(facts, NiahTask):
        essay = () if data_file is None else read_essay_words(data_file)
        return NiahWriter(spec, facts, adjective_nouns(), essay)
    if isinstance(facts, TracingTask):
        return TracingWriter(spec, facts)
    if isinstance(facts, CommonWordsTask):
        return CommonWordsWriter(spec, facts, plain_words())
    if isinstance(facts, QuestionTask) and data_file is not None:
        return QuestionWriter(spec, facts, read_library(data_file, facts.layout))
    raise TypeError(f"{spec.task} has no writer")
