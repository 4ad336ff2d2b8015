"""Makes the samples of a NeedleBench cell (one length), lengths counted by any tokenizer.

Prompts equal those of OpenCompass's own ``NeedleBenchOriginDataset``, which can count with GPT-4's
tokenizer only, byte for byte when counted that way. Runs without OpenCompass.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from opencompass_llada.benchmarks.counting import CountingTokenizer
from opencompass_llada.benchmarks.needle.haystack import (
    HaystackStore,
    read_needles,
    require_file,
    resolve_data_directory,
)
from opencompass_llada.benchmarks.needle.prompts import (
    WORDINGS,
    LengthTooSmall,
    fit_prompt,
    place_needles,
    write_prompt,
    write_question,
)
from opencompass_llada.options import check_fields, reject_unknown

POSITIONS = ("End", "Start")


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
        for name in ("length", "num_repeats_per_file"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
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


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What one sample hides in its haystack and asks for."""

    texts: Sequence[str]
    """The needles, without the line breaks that are put around them."""
    write: Callable[[str], str]
    """Makes the prompt around a context."""
    columns: Mapping[str, str]
    """What the sample holds besides its prompt."""


def make_samples(cell: NeedleCell, store: HaystackStore) -> Iterator[dict[str, str]]:
    """Yield a single-needle cell's samples, file by file and repeat by repeat.

    Columns: prompt, answer (needle, ``*``, keyword: NeedleBench's own format), needle, keyword.
    Raises a ValueError for missing data or a length that cannot be had.
    """
    directory = resolve_data_directory(cell.path)
    needles = read_needles(require_file(directory, cell.needle_file_name), cell.language)

    def hide(repeat: int) -> Hidden:
        needle = random.Random(repeat).choice(needles)
        question = write_question(needle.question, cell.language, guide=cell.guide)
        return Hidden(
            texts=[needle.text],
            write=lambda context: write_prompt(context, question, cell.language, cell.position),
            columns={
                "answer": f"\n{needle.text}\n*{needle.keyword}",
                "needle": needle.text,
                "keyword": needle.keyword,
            },
        )

    return fill_haystacks(cell, store, hide, partial(place_needles, depths=[cell.depth]))


def fill_haystacks(
    cell: NeedleCell,
    store: HaystackStore,
    hide: Callable[[int], Hidden],
    place: Callable[[Sequence[int], Sequence[Sequence[int]]], list[int]],
) -> Iterator[dict[str, str]]:
    """Yield the samples of a cell of any kind, file by file and repeat by repeat.

    Args:
        cell: Says which files, how long and how often.
        store: Holds tokenizers and tokenized haystacks.
        hide: Returns what the sample of a repeat hides.
        place: Puts the tokens of needles into those of a context.
    """
    directory = resolve_data_directory(cell.path)
    paths = [require_file(directory, name) for name in cell.file_list]
    tokenizer = store.tokenizer(cell.tokenizer)
    for path in paths:
        haystack = store.haystack(path, cell.tokenizer)
        order = list(range(len(haystack)))
        for repeat in range(cell.num_repeats_per_file):
            # On from the last repeat's order, as NeedleBench does.
            random.Random(repeat).shuffle(order)
            hidden = hide(repeat)
            needles = [tokenizer.encode(f"\n{text}\n") for text in hidden.texts]
            context = haystack.take(order, cell.length)

            def write(
                num_tokens: int,
                hidden: Hidden = hidden,
                needles: Sequence[Sequence[int]] = needles,
                context: Sequence[int] = context,
            ) -> str:
                return hidden.write(tokenizer.decode(place(context[:num_tokens], needles)))

            size = sum(map(len, needles))
            prompt = _size_prompt(cell, write, size, len(context), tokenizer, path.name)
            yield {"prompt": prompt, **hidden.columns}


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
        try:
            return fit_prompt(
                write,
                partial(tokenizer.count, as_turn=cell.guide),
                target=cell.length - cell.generation_reserve,
                most=num_at_hand,
            )
        except LengthTooSmall as error:
            raise ValueError(
                f"length={cell.length} is too small: template, question and needle take "
                f"{error.needed} tokens and the answer {cell.generation_reserve} "
                f"(tokenizer {cell.tokenizer}); the smallest length that fits this sample is "
                f"{error.needed + cell.generation_reserve}."
            ) from error
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
