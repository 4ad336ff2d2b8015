"""Makes and scores multi-needle data sets on NeedleBench's data, counted by any tokenizer.

Retrieval hides a needle at each of several depths and asks for all; reasoning hides the steps of a
derivation and asks for what follows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from opencompass_llada.benchmarks.data_files import read_json_lines
from opencompass_llada.benchmarks.needle import prompts
from opencompass_llada.benchmarks.needle.dataset import NeedleBenchDataset, NeedleBenchEvaluator
from opencompass_llada.benchmarks.needle.draws import Draw
from opencompass_llada.benchmarks.needle.facts import GENERATED
from opencompass_llada.benchmarks.needle.samples import (
    Hidden,
    NeedleBenchNeedle,
    NeedleCell,
    choose_different,
    fill_haystacks,
    read_reasoning_needles,
    read_retrieval_needles,
)
from opencompass_llada.benchmarks.needle.solver import solve
from opencompass_llada.benchmarks.opencompass_bases import CompleteEvaluator, percent
from opencompass_llada.synthetic.grammar import draw_held_out

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _MultiCell(NeedleCell):
    """Rules that both kinds of cell share."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if not self.guide and self.position != "End":
            raise ValueError(
                f"position={self.position!r} with guide=False: a base model's prompt ends in the "
                "beginning of the answer, after the question; use position='End'."
            )


@dataclass(frozen=True, kw_only=True)
class RetrievalCell(_MultiCell):
    """A cell of multi-needle retrieval."""

    depth: float = 0
    """No effect: see ``depths``."""
    depths: Sequence[float]
    """Where the needles stand, percent, ascending; one needle each."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        depths = list(self.depths)
        if not depths or depths != sorted(depths) or not 0 <= depths[0] <= depths[-1] <= 100:
            raise ValueError(
                f"depths={depths} must be percentages from 0 to 100 in ascending order, at least "
                "one."
            )

    @property
    def needle_depths(self) -> Sequence[float]:
        """Where the needles stand, percent."""
        return self.depths


@dataclass(frozen=True, kw_only=True)
class ReasoningCell(_MultiCell):
    """A cell of multi-needle reasoning; ``depth`` is that of the first needle."""

    num_needles: int
    """Steps of the derivation; NeedleBench asks for 2 to 5."""
    diff: float
    """Percent of the context between two needles; NeedleBench's is 10."""


class MultiNeedleRetrievalDataset(NeedleBenchDataset):
    """OpenCompass data set of one cell; keywords are the fields of `RetrievalCell`."""

    options_class = RetrievalCell
    table_keys = ("benchmark", "task")

    @classmethod
    def make_rows(cls, cell: RetrievalCell) -> Iterator[dict[str, str]]:
        """Yield prompt and answer (``KEYWORD*KEYWORD#DEPTH*DEPTH``, NeedleBench's)."""
        choose = _chooser(cell)
        # NeedleBench ends its own form in a line break.
        ending = "\n" if cell.guide and cell.position == "End" else ""

        def hide(draw: Draw) -> Hidden:
            needles = choose(draw)
            question = prompts.write_several_questions(
                [needle.question for needle in needles],
                cell.language,
                guide=cell.guide,
                number=draw.wording,
            )
            keywords = "*".join(needle.keyword for needle in needles)
            columns = {"answer": f"{keywords}#{'*'.join(map(str, cell.depths))}"}
            return [needle.text for needle in needles], question + ending, columns

        place = partial(prompts.place_needles, depths=cell.depths)
        return fill_haystacks(cell, cls.store, hide, place, several=True)


def _chooser(cell: RetrievalCell) -> Callable[[Draw], list[NeedleBenchNeedle]]:
    """Return what chooses the needles of a sample, in the order of their depths."""
    count, language = len(cell.depths), cell.language
    if cell.needle_file_name == GENERATED:
        return lambda draw: choose_different(_generate(draw.rng), language, count, GENERATED)
    path = cell.find_needle_file()
    if cell.place is None:
        chosen = read_retrieval_needles(path, language, count)
        return lambda draw: _shuffled(chosen, draw.rng)
    rows = list(read_json_lines(path))
    return lambda draw: choose_different(_shuffled(rows, draw.rng), language, count, path)


def _shuffled(items: Sequence[T], rng: random.Random) -> list[T]:
    order = list(items)
    rng.shuffle(order)
    return order


def _generate(rng: random.Random) -> Iterator[tuple[str, Mapping[str, Any]]]:
    while True:
        yield GENERATED, draw_held_out(rng).as_needlebench()


class MultiNeedleReasoningDataset(NeedleBenchDataset):
    """OpenCompass data set of one cell; keywords are the fields of `ReasoningCell`."""

    options_class = ReasoningCell
    table_keys = ("benchmark", "task")

    @classmethod
    def make_rows(cls, cell: ReasoningCell) -> Iterator[dict[str, str]]:
        """Yield prompt and answer (``ANSWER*ANSWER``, NeedleBench's own format)."""
        records = read_reasoning_needles(cell.find_needle_file(), cell.num_needles)

        def hide(draw: Draw) -> Hidden:
            record = draw.pick(records)
            asked, answer = record["question"], record["answer"]
            question = prompts.write_reasoning_question(
                asked, cell.language, guide=cell.guide, number=draw.wording
            )
            return record["derivations"], question, {"answer": f"{answer}*{answer}"}

        place = partial(prompts.place_chain, depth=cell.depth, gap=cell.diff)
        return fill_haystacks(cell, cls.store, hide, place)


class MultiNeedleRetrievalEvaluator(CompleteEvaluator):
    """Reports score (needles found: NeedleBench's average_score), by depth too, and accuracy.

    That is the share of answers with all needles; all in percent.
    """

    def solve(self, sample: Mapping[str, Any]) -> str | None:
        """Return the line that is most like each question; see `needle.solver.solve`."""
        return solve(sample["prompt"])

    def judge(self, prediction: str, reference: str) -> dict[str, Any]:
        """Look for each keyword."""
        keywords, _, depths = reference.partition("#")
        found = [keyword in prediction for keyword in keywords.split("*")]
        hits = list(zip(depths.split("*"), found, strict=True))
        return {**_describe(prediction, keywords, found), "hits": hits}

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average by depth, then over depths."""
        found_by_depth: dict[str, list[bool]] = {}
        for detail in details:
            for depth, hit in detail.pop("hits"):  # results hold them by depth alone
                found_by_depth.setdefault(depth, []).append(hit)
        shares = {f"Depth{depth}": percent(hits) for depth, hits in found_by_depth.items()}
        return {
            "score": sum(shares.values()) / len(shares),
            "accuracy": percent([detail["correct"] for detail in details]),
            **shares,
        }


class MultiNeedleReasoningEvaluator(NeedleBenchEvaluator):
    """Reports score (NeedleBench's: the answer's words found, in any letter case) and accuracy.

    That is the share of answers with all words; both in percent.
    """

    ceiling = "gold answer"

    def chance(self, sample: Mapping[str, Any]) -> float | None:
        """Return None: the names that answers are made of are few, and nobody counted them."""
        return None

    def solve(self, sample: Mapping[str, Any]) -> str | None:
        """Return the gold answer."""
        return str(sample["answer"]).split("*")[1]

    def judge(self, prediction: str, reference: str) -> dict[str, Any]:
        """Look for each word."""
        answer = reference.split("*")[1]
        found = [word in prediction.lower() for word in answer.lower().split()]
        return _describe(prediction, answer, found)


def _describe(prediction: str, keywords: str, found: Sequence[bool]) -> dict[str, Any]:
    return {
        "prediction": prediction,
        "keywords": keywords,
        "num_found": sum(found),
        "score": percent(found),
        "correct": all(found),
    }
