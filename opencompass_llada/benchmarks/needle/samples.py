"""Makes the samples of a NeedleBench cell (one length), lengths counted by any tokenizer.

Prompts equal those of OpenCompass's own classes, which can count with GPT-4's tokenizer only, byte
for byte when counted that way. Runs without OpenCompass.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.counting import CountingTokenizer, load_counting_tokenizer
from opencompass_llada.benchmarks.data_files import (
    MissingDataError,
    find_data,
    read_json_lines,
    read_json_list,
    take,
)
from opencompass_llada.benchmarks.needle.prompts import (
    WORDINGS,
    fit_prompt,
    place_needles,
    write_prompt,
    write_question,
)
from opencompass_llada.options import check_at_least, check_fields, reject_unknown

POSITIONS = ("End", "Start")
HOW_TO_GET = (
    "Set COMPASS_DATA_CACHE to the folder whose data/needlebench holds NeedleBench's files "
    "(opencompass/needlebench on the Hugging Face hub; or set DATASET_SOURCE=HF to download it), "
    "give the folder itself as path=..., or use the embedded data: path='asset:needlebench' "
    "(LLADA_DATA=embedded for the shipped configs)."
)


@dataclass(frozen=True, kw_only=True)
class NeedleCell:
    """One cell of the grid: what a data set config says, checked."""

    path: str
    """NeedleBench's folder: ``asset:NAME``, a folder, or ``opencompass/needlebench``."""
    length: int
    """Tokens of the whole task: prompt and room for the answer."""
    depth: float
    """Where the needle stands in the context, percent."""
    tokenizer: str
    """What counts the tokens: ``'gpt-4'`` or a checkpoint's path."""
    file_list: Sequence[str]
    """Haystack files, in this order. Differs from the original, which has an order of its own and
    passes over names that it does not know."""
    num_repeats_per_file: int
    """Samples for each file; each has its own text order and needle."""
    length_buffer: int | str
    """Tokens of ``length`` left to everything but context and needle (NeedleBench's way), or
    ``'fit'``: as much context as makes prompt + ``generation_reserve`` equal ``length``."""
    guide: bool
    """The chat form of the question (True), or ending in the answer prefix (False). A prompt that
    is to fit is then counted with the tokenizer's chat template around it."""
    language: str
    """``'English'`` or ``'Chinese'``."""
    needle_file_name: str = "needles.jsonl"
    position: str = "End"
    """Whether the question stands at the ``'End'`` or the ``'Start'``."""
    generation_reserve: int = 0
    """Tokens kept for the answer when ``length_buffer='fit'``."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        reject_unknown("language", [self.language], WORDINGS)
        reject_unknown("position", [self.position], POSITIONS)
        if not 0 <= self.depth <= 100:
            raise ValueError(f"depth={self.depth} must be a percentage from 0 to 100.")
        check_at_least(self, 1, "length", "num_repeats_per_file")
        if not self.file_list:
            raise ValueError("file_list=[] must name at least one haystack file.")
        if isinstance(self.length_buffer, str) and self.length_buffer != "fit":
            raise ValueError(
                f"length_buffer={self.length_buffer!r} must be a number of tokens or 'fit'."
            )
        for name in ("length_buffer", "generation_reserve"):
            if (value := getattr(self, name)) != "fit" and value < 0:
                raise ValueError(f"{name}={value} must not be below 0.")
        if self.length_buffer != "fit" and self.generation_reserve:
            raise ValueError(
                f"generation_reserve={self.generation_reserve} has no effect with "
                f"length_buffer={self.length_buffer}: use length_buffer='fit', or count the answer "
                "in length_buffer."
            )

    def find_needle_file(self) -> Path:
        """Return the file of needles."""
        return require_file(resolve_data_directory(self.path), self.needle_file_name)


@dataclass(frozen=True, kw_only=True)
class NeedleBenchNeedle:
    """One line of ``needles.jsonl``."""

    text: str
    """Without the line breaks that are put around it."""
    question: str
    """With its format hint as the file has it."""
    keyword: str
    """What the answer must contain (``arg2`` in the file)."""


def resolve_data_directory(path: str) -> Path:
    """Find NeedleBench's folder; see `data_files.find_data`."""
    return find_data(path, benchmark="NeedleBench", how_to_get=HOW_TO_GET)


def require_file(directory: Path, name: str) -> Path:
    """Return the path of a file of NeedleBench's folder; names those there if it is missing."""
    path = directory / name
    if not path.is_file():
        present = ", ".join(sorted(p.name for p in directory.glob("*.json*"))) or "none"
        raise MissingDataError(
            f"NeedleBench's file {name!r} is not in {directory} (its data files: {present}). "
            f"{HOW_TO_GET}",
            "needlebench",
        )
    return path


def read_needles(path: Path, language: str) -> list[NeedleBenchNeedle]:
    """Read the needles of one language, in the file's order."""
    needles = [
        parse_needle(row, where)
        for where, row in read_json_lines(path)
        if take(row, "language", where) == language
    ]
    if not needles:
        raise ValueError(f"language={language!r}: {path} holds no needle in that language.")
    return needles


def parse_needle(row: Mapping[str, Any], where: str) -> NeedleBenchNeedle:
    """Return the needle of a line of ``needles.jsonl``; refuses one that cannot be scored."""
    needle, keyword = (take(row, name, where, Any) for name in ("needle", "arg2"))
    if "*" in f"{needle}{keyword}":
        raise ValueError(
            f"{where}: the needle {needle!r} or its keyword {keyword!r} holds '*', which "
            "NeedleBench's answer column uses to divide needle from keyword; remove it."
        )
    texts = isinstance(needle, str) and isinstance(keyword, str)
    if not texts or not keyword.strip() or keyword not in needle:
        raise ValueError(
            f"{where}: the keyword arg2={keyword!r} must be a part of the needle {needle!r}: an "
            "empty one stands in every answer, and one that the needle lacks in none. Correct the "
            "line or take it out."
        )
    return NeedleBenchNeedle(
        text=needle, question=take(row, "retrieval_question", where), keyword=keyword
    )


def read_retrieval_needles(path: Path, language: str, count: int) -> list[NeedleBenchNeedle]:
    """Choose needles that share neither subject nor keyword, the same ones for the same file.

    Differs from the original in that they are shuffled with seed 0: there it is with whatever
    state the process's random numbers are in, so that two runs ask for different needles.
    """
    rows = list(read_json_lines(path))
    random.Random(0).shuffle(rows)
    chosen: list[NeedleBenchNeedle] = []
    taken: set[tuple[str, str]] = set()
    for where, row in rows:
        if take(row, "language", where) != language:
            continue
        needle = parse_needle(row, where)
        names = {("subject", take(row, "arg1", where)), ("keyword", needle.keyword)}
        if not names & taken:
            chosen.append(needle)
            taken |= names
        if len(chosen) == count:
            return chosen
    raise ValueError(
        f"{count} depths need as many needles, and {path} holds {len(chosen)} in {language} "
        "that share neither subject nor keyword; give fewer depths."
    )


def read_reasoning_needles(path: Path, num_needles: int) -> list[Mapping[str, Any]]:
    """Read the records of derivations of a given number of steps, in the file's order.

    Each has derivations (the sentences to hide), question, and answer, whose words are keywords.
    """
    records: dict[int, list[Mapping[str, Any]]] = {}
    for where, row in read_json_list(path):
        steps = take(row, "derivation_count", where, int)
        take(row, "derivations", where, Sequence[str])
        take(row, "question", where)
        answer = take(row, "answer", where, Any)
        if steps == num_needles and not (isinstance(answer, str) and answer.strip()):
            raise ValueError(
                f"{where}: answer={answer!r} must be a text: an empty one stands in every answer. "
                "Correct the record or take it out."
            )
        records.setdefault(steps, []).append(row)
    if num_needles not in records:
        raise ValueError(
            f"num_needles={num_needles}: {path} holds no derivation of that many steps; use one "
            f"of {', '.join(map(str, sorted(records)))}."
        )
    return records[num_needles]


class Haystack:
    """The documents of one file (a JSON object with ``text`` a line), each tokenized once."""

    def __init__(self, path: Path, tokenizer: CountingTokenizer) -> None:
        """Read the documents; tokenizes nothing yet."""
        self._tokenizer = tokenizer
        self._texts = [take(row, "text", where) for where, row in read_json_lines(path)]
        if not self._texts:
            raise ValueError(f"{path} holds no document; fetch it again.")
        self._tokens: dict[int, array] = {}

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self._texts)

    def take(self, order: Sequence[int], num_tokens: int) -> list[int]:
        """Return the first ``num_tokens`` tokens of the documents in the given order, or all.

        Documents are tokenized one by one and put end to end, as NeedleBench does.
        """
        taken: list[int] = []
        for document in order:
            if len(taken) >= num_tokens:
                break
            if document not in self._tokens:
                self._tokens[document] = array("l", self._tokenizer.encode(self._texts[document]))
            taken.extend(self._tokens[document])
        return taken[:num_tokens]


class HaystackStore:
    """Holds the tokenizers and tokenized files used last, which the cells of a run share."""

    def __init__(self, max_entries: int = 4) -> None:
        """Start empty; at most so many tokenizers, and haystacks, are held at once."""
        #: Returns the tokenizer of a name.
        self.tokenizer = lru_cache(max_entries)(load_counting_tokenizer)
        self._read = lru_cache(max_entries)(
            lambda path, mtime_ns, name: Haystack(path, self.tokenizer(name))
        )

    def haystack(self, path: Path, tokenizer_name: str) -> Haystack:
        """Return a file's documents under a tokenizer, reading them the first time."""
        return self._read(path, path.stat().st_mtime_ns, tokenizer_name)


#: What one sample hides (needles without the line breaks that are put around them), the question,
#: and what the sample holds besides its prompt.
Hidden = tuple[Sequence[str], str, Mapping[str, str]]


def make_samples(cell: NeedleCell, store: HaystackStore) -> Iterator[dict[str, str]]:
    """Yield a single-needle cell's samples, file by file and repeat by repeat.

    Columns: prompt, answer (needle, ``*``, keyword: NeedleBench's own format), needle, keyword.
    Raises a ValueError for missing data or a length that cannot be had.
    """
    needles = read_needles(cell.find_needle_file(), cell.language)

    def hide(repeat: int) -> Hidden:
        needle = random.Random(repeat).choice(needles)
        question = write_question(needle.question, cell.language, guide=cell.guide)
        answer = f"\n{needle.text}\n*{needle.keyword}"
        columns = {"answer": answer, "needle": needle.text, "keyword": needle.keyword}
        return [needle.text], question, columns

    return fill_haystacks(cell, store, hide, partial(place_needles, depths=[cell.depth]))


def fill_haystacks(
    cell: NeedleCell,
    store: HaystackStore,
    hide: Callable[[int], Hidden],
    place: Callable[[Sequence[int], Sequence[Sequence[int]]], list[int]],
    *,
    several: bool = False,
) -> Iterator[dict[str, str]]:
    """Yield the samples of a cell of any kind, file by file and repeat by repeat.

    ``hide`` says what the sample of a repeat hides; ``place`` puts the tokens of needles into those
    of a context; ``several`` is `write_prompt`'s.
    """
    directory = resolve_data_directory(cell.path)
    paths = [require_file(directory, name) for name in cell.file_list]
    tokenizer = store.tokenizer(cell.tokenizer)

    def write(
        question: str, needles: Sequence[Sequence[int]], context: Sequence[int], num_tokens: int
    ) -> str:
        text = tokenizer.decode(place(context[:num_tokens], needles))
        return write_prompt(text, question, cell.language, cell.position, several=several)

    for path in paths:
        haystack = store.haystack(path, cell.tokenizer)
        order = list(range(len(haystack)))
        for repeat in range(cell.num_repeats_per_file):
            # On from the last repeat's order, as NeedleBench does.
            random.Random(repeat).shuffle(order)
            texts, question, columns = hide(repeat)
            needles = [tokenizer.encode(f"\n{text}\n") for text in texts]
            context = haystack.take(order, cell.length)
            sized = partial(write, question, needles, context)
            size = sum(map(len, needles))
            prompt = _size_prompt(cell, sized, size, len(context), tokenizer, path.name)
            yield {"prompt": prompt, **columns}


def _size_prompt(
    cell: NeedleCell,
    write: Callable[[int], str],
    num_needle_tokens: int,
    num_at_hand: int,
    tokenizer: CountingTokenizer,
    haystack_name: str,
) -> str:
    """Write a prompt with as much context as a cell's length and length_buffer leave."""
    if isinstance(cell.length_buffer, str):
        count = partial(tokenizer.count, as_turn=cell.guide)
        target = cell.length - cell.generation_reserve
        if (needed := count(write(0))) > target:
            raise ValueError(
                f"length={cell.length} is too small: template, question and needle take "
                f"{needed} tokens and the answer {cell.generation_reserve} "
                f"(tokenizer {cell.tokenizer}); the smallest length that fits this sample is "
                f"{needed + cell.generation_reserve}."
            )
        return fit_prompt(write, count, target=target, most=num_at_hand)
    num_context_tokens = cell.length - cell.length_buffer - num_needle_tokens
    if num_context_tokens < 0:
        raise ValueError(
            f"length={cell.length} is too small for length_buffer={cell.length_buffer}: the "
            f"needles take {num_needle_tokens} tokens, so that the smallest length that fits this "
            f"sample is {cell.length - num_context_tokens}; or use length_buffer='fit'."
        )
    if num_context_tokens > num_at_hand:
        raise ValueError(
            f"length={cell.length} needs {num_context_tokens} tokens of text, and "
            f"{haystack_name} holds {num_at_hand} (tokenizer {cell.tokenizer}); use a "
            "longer haystack or a smaller length."
        )
    return write(num_context_tokens)
