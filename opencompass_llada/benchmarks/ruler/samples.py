"""Makes RULER's samples of a task at a length, once a machine (`sample_cache` keeps them).

Runs without OpenCompass.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.counting import CountingTokenizer
from opencompass_llada.benchmarks.data_files import find_data
from opencompass_llada.benchmarks.readers import ReaderOptions
from opencompass_llada.benchmarks.ruler import sources, writers
from opencompass_llada.benchmarks.ruler.prompts import (
    NiahTask,
    QuestionTask,
    RulerSpec,
    data_file_of,
)
from opencompass_llada.benchmarks.ruler.writers import RulerSample
from opencompass_llada.benchmarks.sample_cache import cached_samples
from opencompass_llada.runs.hashes import hash_file

logger = logging.getLogger(__name__)

MAX_LENGTHS_TRIED = 41
HOW_TO_GET = (
    "Set COMPASS_DATA_CACHE to the folder whose data/ruler holds RULER's files "
    "(PaulGrahamEssays.jsonl, dev-v2.0.json of SQuAD 2.0, hotpotqa.json: HotpotQA's "
    "hotpot_dev_distractor_v1.json), give the folder itself as path=..., or run the tasks that "
    "need no files: niah_single_1, niah_multikey_2, niah_multikey_3, vt, cwe, fwe "
    "(LLADA_DATA=embedded runs all niah tasks on generated text)."
)


def build_samples(spec: RulerSpec, tokenizer: CountingTokenizer) -> list[RulerSample]:
    """Return a data set's samples, from disk where they are.

    A ValueError for a length that is too small names one that fits.
    """
    return cached_samples(
        "ruler",
        f"{spec.task}_{spec.length}",
        describe_dependencies(spec, tokenizer),
        spec.num_samples,
        RulerSample,
        lambda: _build_or_say_length(spec, tokenizer),
    )


def find_data_file(spec: RulerSpec) -> Path | None:
    """Return the file that a data set's texts come from; None for generated ones."""
    name = data_file_of(spec.facts, spec.essay_file)
    if name is None:
        return None
    return find_data(spec.path, benchmark="RULER", how_to_get=HOW_TO_GET, name=name)


def describe_dependencies(spec: RulerSpec, tokenizer: CountingTokenizer) -> dict[str, Any]:
    """Return everything that a data set's samples depend on; no paths, which may differ.

    Of ``chat`` the template that is counted: without one its samples are those of base prompts.
    """
    data_file = find_data_file(spec)
    elsewhere = {"path", "essay_file", "tokenizer", "benchmark", "chat"}
    elsewhere |= {field.name for field in fields(ReaderOptions)}  # who reads a sample changes none
    return {
        **{name: value for name, value in asdict(spec).items() if name not in elsewhere},
        "facts": asdict(spec.facts),
        "tokenizer": tokenizer.identity(),
        "template": tokenizer.template() if spec.chat else None,
        "data": None if data_file is None else hash_file(data_file),
        "words": sources.words_digest(),
        "sources": sources_digest(),
    }


def _build_or_say_length(spec: RulerSpec, tokenizer: CountingTokenizer) -> list[RulerSample]:
    """Make the samples; where they do not fit, make them longer for the error to name a length."""
    count, length = partial(tokenizer.count, as_turn=spec.chat), spec.length
    fault: writers.NoRoom | None = None
    for _ in range(MAX_LENGTHS_TRIED):
        try:
            samples = list(_generate(replace(spec, length=length), count))
            break
        except writers.NoRoom as too_small:
            fault = fault or too_small
            length = max(length + 1, too_small.needed + spec.reserve)
    if fault is None:
        return samples
    raise ValueError(
        f"length={spec.length} is too small for RULER's {spec.task}: its smallest prompt has "
        f"{fault.needed} tokens (tokenizer {spec.tokenizer}) and the answer is given "
        f"{spec.reserve}; the smallest length that fits is {length}."
    ) from fault


def _generate(spec: RulerSpec, count: Callable[[str], int]) -> Iterator[RulerSample]:
    if spec.task == "fwe":
        return writers.make_frequent_words(spec, count)
    data_file = find_data_file(spec)
    writer, limit = make_writer(spec, data_file), spec.length - spec.reserve
    num_items = writers.find_num_items(writer, count, limit)
    if writer.most is not None and num_items >= writer.most:
        logger.warning(
            "RULER's %s at length=%d: all %d items of %s are in each prompt and do not fill it; "
            "its score is of a shorter text (see num_tokens).",
            *(spec.task, spec.length, writer.most),
            "the word list" if data_file is None else data_file.name,
        )
    return writers.fit_samples(writer, count, num_items, limit=limit, num_samples=spec.num_samples)


def make_writer(spec: RulerSpec, data_file: Path | None) -> writers.Writer:
    """Return what writes a data set's samples; fwe has a fit of its own."""
    task = spec.facts
    if isinstance(task, NiahTask):
        essay = () if data_file is None else sources.read_essay_words(data_file)
        return writers.NiahWriter(spec, task, sources.adjective_nouns(), essay)
    if isinstance(task, QuestionTask):
        assert data_file is not None, f"{spec.task} reads its questions"
        return writers.QuestionWriter(spec, task, sources.read_library(data_file, task.layout))
    return (
        writers.TracingWriter(spec)
        if spec.task == "vt"
        else writers.CommonWordsWriter(spec, sources.plain_words())
    )


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """Return a digest of this package's own code and wording: others make other samples."""
    folder = Path(__file__).parent
    files = sorted([*folder.glob("*.py"), *folder.glob("*.json")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
