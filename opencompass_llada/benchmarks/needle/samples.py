"""Makes the samples of a NeedleBench cell (one length), lengths counted by any tokenizer.

Prompts equal those of OpenCompass's own classes, which can count with GPT-4's tokenizer only, byte
for byte when counted that way. Runs without OpenCompass.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.counting import CountingTokenizer
from opencompass_llada.benchmarks.data_files import (
    MissingDataError,
    find_data,
    read_json_lines,
    read_json_list,
    take,
)
from opencompass_llada.benchmarks.needle.draws import PROTOCOLS, Draw, draw_samples
from opencompass_llada.benchmarks.needle.facts import GENERATED
from opencompass_llada.benchmarks.needle.haystack import HaystackStore
from opencompass_llada.benchmarks.needle.prompts import (
    NUM_WORDINGS,
    WORDINGS,
    fit_prompt,
    place_needles,
    write_parts,
    write_question,
)
from opencompass_llada.benchmarks.readers import PromptParts, ReaderOptions, split_prompt
from opencompass_llada.options import check_at_least, reject_unknown
from opencompass_llada.synthetic.grammar import draw_held_out

POSITIONS = ("End", "Start")
HOW_TO_GET = (
    "Set COMPASS_DATA_CACHE to the folder whose data/needlebench holds NeedleBench's files "
    "(opencompass/needlebench on the Hugging Face hub; or set DATASET_SOURCE=HF to download it), "
    "give the folder itself as path=..., or use the embedded data: path='asset:needlebench' "
    "(LLADA_DATA=embedded, or data='embedded' in a config)."
)


@dataclass(frozen=True, kw_only=True)
class NeedleCell(ReaderOptions):
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
    """``'generated'``, with independent draws, for sentences that `synthetic.grammar` makes, about
    keys that the shipped models were not trained on."""
    draws: str = "published"
    """Whose needle, texts and wording a sample has: NeedleBench's, the same in every cell
    (``'published'``), or its own (``'independent'``); see `needle.draws`."""
    draw_seed: int = 0
    """Other seeds give other independent draws."""
    wording: int | None = None
    """The wording of every sample, below `prompts.NUM_WORDINGS`; 0 is NeedleBench's. None for what
    is drawn."""
    position: str = "End"
    """Whether the question stands at the ``'End'`` or the ``'Start'``."""
    generation_reserve: int = 0
    """Tokens kept for the answer when ``length_buffer='fit'``."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        reject_unknown("language", [self.language], WORDINGS)
        reject_unknown("position", [self.position], POSITIONS)
        self._check_draws()
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

    def _check_draws(self) -> None:
        reject_unknown("draws", [self.draws], PROTOCOLS)
        check_at_least(self, 0, "draw_seed")
        if self.wording is not None and not 0 <= self.wording < NUM_WORDINGS:
            raise ValueError(
                f"wording={self.wording} must be a number from 0 to {NUM_WORDINGS - 1}, or None "
                "for what is drawn."
            )
        if self.place is None and self.draw_seed:
            raise ValueError(
                f"draw_seed={self.draw_seed} has no effect with draws='published', where no seed "
                "is drawn with: use draws='independent', or leave draw_seed out."
            )
        own = self.place is not None and self.language == "English"
        if self.needle_file_name == GENERATED and not own:
            raise ValueError(
                f"needle_file_name={GENERATED!r} with draws={self.draws!r} in {self.language}: "
                "needles are generated for draws='independent' in English alone; name a file of "
                "needles instead, such as 'needles.jsonl'."
            )

    @property
    def needle_depths(self) -> Sequence[float]:
        """Where needles stand, percent."""
        return [self.depth]

    @property
    def place(self) -> str | None:
        """What the independent draws of this cell follow from; None for the published ones."""
        if self.draws == "published":
            return None
        depths = ",".join(f"{depth:g}" for depth in self.needle_depths)
        return f"seed {self.draw_seed} {self.language} length {self.length} depth {depths}"

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
    return choose_different(rows, language, count, path)


def choose_different(
    rows: Iterable[tuple[str, Mapping[str, Any]]], language: str, count: int, source: Path | str
) -> list[NeedleBenchNeedle]:
    """Choose the first needles that share neither subject nor keyword, of places and records."""
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
        f"{count} depths need as many needles, and {source} holds {len(chosen)} in {language} "
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


#: What one sample hides (needles without the line breaks that are put around them), the question,
#: and what the sample holds besides its prompt.
Hidden = tuple[Sequence[str], str, Mapping[str, str]]


def needle_chooser(cell: NeedleCell) -> Callable[[Draw], NeedleBenchNeedle]:
    """Return what chooses the needle of a single-needle cell's sample."""
    if cell.needle_file_name == GENERATED:
        return lambda draw: parse_needle(draw_held_out(draw.rng).as_needlebench(), GENERATED)
    needles = read_needles(cell.find_needle_file(), cell.language)
    return lambda draw: draw.pick(needles)


def make_samples(cell: NeedleCell, store: HaystackStore) -> Iterator[dict[str, str]]:
    """Yield a single-needle cell's samples, file by file and repeat by repeat.

    Columns: prompt, answer (needle, ``*``, keyword: NeedleBench's own format), needle, keyword.
    Raises a ValueError for missing data or a length that cannot be had.
    """
    choose = needle_chooser(cell)

    def hide(draw: Draw) -> Hidden:
        needle = choose(draw)
        question = write_question(
            needle.question, cell.language, guide=cell.guide, number=draw.wording
        )
        answer = f"\n{needle.text}\n*{needle.keyword}"
        columns = {"answer": answer, "needle": needle.text, "keyword": needle.keyword}
        return [needle.text], question, columns

    return fill_haystacks(cell, store, hide, partial(place_needles, depths=[cell.depth]))


def fill_haystacks(
    cell: NeedleCell,
    store: HaystackStore,
    hide: Callable[[Draw], Hidden],
    place: Callable[[Sequence[int], Sequence[Sequence[int]]], list[int]],
    *,
    several: bool = False,
) -> Iterator[dict[str, str]]:
    """Yield the samples of a cell of any kind, file by file and repeat by repeat.

    ``hide`` says what the sample of a draw hides; ``place`` puts the tokens of needles into those
    of a context; ``several`` is `write_prompt`'s.
    """
    directory = resolve_data_directory(cell.path)
    paths = [require_file(directory, name) for name in cell.file_list]
    tokenizer = store.tokenizer(cell.tokenizer)

    def write(
        draw: Draw,
        question: str,
        needles: Sequence[Sequence[int]],
        context: Sequence[int],
        num_tokens: int,
    ) -> str:
        text = tokenizer.decode(place(context[:num_tokens], needles))
        return assemble(draw, text, question).whole

    def assemble(draw: Draw, text: str, question: str) -> PromptParts:
        return write_parts(
            text, question, cell.language, cell.position, several=several, number=draw.wording
        )

    count = len(paths) * cell.num_repeats_per_file
    for first, path in enumerate(paths):
        haystack = store.haystack(path, cell.tokenizer)
        for draw in draw_samples(cell.place, range(first, count, len(paths)), len(haystack)):
            if cell.wording is not None:
                draw = replace(draw, wording=cell.wording)
            texts, question, columns = hide(draw)
            needles = [tokenizer.encode(f"\n{text}\n") for text in texts]
            context = haystack.take(draw.order, cell.length, draw.start)
            sized = partial(write, draw, question, needles, context)
            size = sum(map(len, needles))
            prompt = _size_prompt(cell, sized, size, len(context), tokenizer, path.name)
            if cell.reader != "full":
                parts = split_prompt(prompt, assemble(draw, "", question).lengths)
                prompt = cell.read(parts, store.tokenizer, cell.tokenizer, chat=cell.guide)
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
