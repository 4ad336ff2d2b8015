"""The samples of one single-needle cell (one length, one depth), lengths counted by any tokenizer.

Prompts equal those of OpenCompass's own ``NeedleBenchOriginDataset``, which can count with GPT-4's
tokenizer only, byte for byte when counted that way. Runs without OpenCompass (`dataset` makes
its data sets of this), scores no answers (`scoring`), lists no cells (``needlebench/``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from opencompass_llada.benchmarks.counting import CountingTokenizer
from opencompass_llada.benchmarks.needle.haystack import (
    Haystack,
    HaystackStore,
    Needle,
    choose_needle,
    document_orders,
    read_needles,
    require_file,
    resolve_data_directory,
)
from opencompass_llada.benchmarks.needle.prompts import (
    WORDINGS,
    LengthTooSmall,
    fit_prompt,
    hidden_text,
    insert_needle,
    write_prompt,
    write_question,
)
from opencompass_llada.options import build, check_fields, unknown_name_message

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
    """The file of needles."""
    position: str = "End"
    """Whether the question stands at the ``'End'`` or the ``'Start'``."""
    generation_reserve: int = 0
    """Tokens kept for the answer when ``length_buffer='fit'``."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: With the name, the value, the rule and a valid value.
        """
        check_fields(self)
        if self.language not in WORDINGS:
            raise ValueError(unknown_name_message("language", self.language, WORDINGS))
        if self.position not in POSITIONS:
            raise ValueError(unknown_name_message("position", self.position, POSITIONS))
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
            value = getattr(self, name)
            if not isinstance(value, str) and value < 0:
                raise ValueError(f"{name}={value} must not be below 0.")
        if self.length_buffer != "fit" and self.generation_reserve:
            raise ValueError(
                f"generation_reserve={self.generation_reserve} has no effect with "
                f"length_buffer={self.length_buffer}: use length_buffer='fit', or count the answer "
                "in length_buffer."
            )


def parse_needle_cell(
    options: Mapping[str, Any], kind: type[NeedleCell] = NeedleCell
) -> NeedleCell:
    """Read a data set config's keywords.

    Args:
        options: The keywords.
        kind: The class of the cell.

    Raises:
        ValueError: For an unknown keyword (names the nearest), a missing one or a wrong value.
    """
    return build(kind, options, "NeedleBench data set")


def find_source(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a cell's samples are made of: folder, files, tokenizer and language."""
    names = ("path", "file_list", "needle_file_name", "tokenizer", "language")
    return tuple(str(options.get(name)) for name in names)


def make_samples(cell: NeedleCell, store: HaystackStore) -> Iterator[dict[str, str]]:
    """Yield a cell's samples, file by file and repeat by repeat.

    Args:
        cell: The cell.
        store: Where tokenizers and tokenized haystacks are kept.
    """
    directory = resolve_data_directory(cell.path)
    needles = read_needles(require_file(directory, cell.needle_file_name), cell.language)
    paths = [require_file(directory, name) for name in cell.file_list]
    tokenizer = store.tokenizer(cell.tokenizer)
    for path in paths:
        haystack = store.haystack(path, cell.tokenizer)
        orders = document_orders(len(haystack), cell.num_repeats_per_file)
        for repeat, order in enumerate(orders):
            needle = choose_needle(needles, repeat)
            yield {
                "prompt": _make_prompt(cell, needle, haystack, order, tokenizer),
                "answer": f"{hidden_text(needle)}*{needle.keyword}",
                "needle": needle.text,
                "keyword": needle.keyword,
            }


def _make_prompt(
    cell: NeedleCell,
    needle: Needle,
    haystack: Haystack,
    order: Sequence[int],
    tokenizer: CountingTokenizer,
) -> str:
    """Write one prompt with as much context as the cell's length leaves."""
    needle_tokens = tokenizer.encode(hidden_text(needle))
    question = write_question(needle.question, cell.language, guide=cell.guide)
    context_tokens = haystack.take(order, cell.length)

    def write(num_context_tokens: int) -> str:
        placed = insert_needle(context_tokens[:num_context_tokens], needle_tokens, cell.depth)
        return write_prompt(tokenizer.decode(placed), question, cell.language, cell.position)

    return size_prompt(
        cell, write, len(needle_tokens), len(context_tokens), tokenizer, haystack.path.name
    )


def size_prompt(
    cell: NeedleCell,
    write: Callable[[int], str],
    num_needle_tokens: int,
    num_at_hand: int,
    tokenizer: CountingTokenizer,
    haystack_name: str,
) -> str:
    """Write a prompt with as much context as a cell's length and length_buffer leave.

    Args:
        cell: Says how long.
        write: Makes the prompt with that many context tokens.
        num_needle_tokens: Tokens of all needles.
        num_at_hand: Context tokens that there are.
        tokenizer: Counts the prompt's tokens.
        haystack_name: For messages.

    Raises:
        ValueError: If the length is too small for the needles, or too large for the haystack.
    """
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
