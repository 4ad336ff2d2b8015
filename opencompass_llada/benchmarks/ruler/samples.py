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
from opencompass_llada.files import CACHE_VARIABLE, remove_left_overs, replacing, user_cache
from opencompass_llada.runs.hashes import hash_file

logger = logging.getLogger(__name__)

DIGITS_IN_NAME = 20
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
    folder = user_cache("ruler")
    if folder is None:
        return _build_or_say_length(spec, tokenizer)
    key = json.dumps(describe_dependencies(spec, tokenizer), sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:DIGITS_IN_NAME]
    path = folder / f"{spec.task}_{spec.length}_{digest}.jsonl.gz"
    samples = _read_samples(path, key, spec.num_samples)
    if samples is None:
        samples = _build_or_say_length(spec, tokenizer)
        _write_samples(path, key, samples)
    return samples


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


def _read_samples(path: Path, key: str, num_samples: int) -> list[RulerSample] | None:
    """Return the samples of a file, or None where there is no whole file of so many."""
    if not path.is_file():
        return None
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
            if json.loads(next(lines))["key"] != key:
                raise ValueError("it belongs to another set")
            rows = [json.loads(line) for line in lines]
        lists = ("answers", "part_lengths")
        samples = [RulerSample(**row | {name: tuple(row[name]) for name in lists}) for row in rows]
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
        remedy = f"set {CACHE_VARIABLE} to a folder that can be written"
        logger.warning("RULER's samples cannot be kept (%s); %s.", error, remedy)
