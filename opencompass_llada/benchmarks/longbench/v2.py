"""Makes the OpenCompass data set of LongBench v2 (questions with four choices), and scores it.

Wording, answer extraction and scoring are the original's (arXiv 2412.15204; THUDM/LongBench,
``prompts/0shot.txt``, ``pred.py`` and ``result.py``), but for two differences. A base model is
given the same wording, with the beginning of the answer in place of the request for its form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from opencompass_llada.benchmarks.data_files import (
    find_data,
    read_json_lines,
    read_json_list,
    take,
)
from opencompass_llada.benchmarks.longbench.facts import V2_DIFFICULTIES, V2_LENGTHS
from opencompass_llada.benchmarks.needle.haystack import HaystackStore
from opencompass_llada.benchmarks.opencompass_bases import (
    CheckedDataset,
    CompleteEvaluator,
    percent,
)
from opencompass_llada.benchmarks.readers import PromptParts, ReaderOptions
from opencompass_llada.options import reject_unknown

HOW_TO_GET = (
    "Set COMPASS_DATA_CACHE to the folder whose data/longbenchv2/data.json is LongBench v2 "
    "(data.json of THUDM/LongBench-v2 on the Hugging Face hub), give the file or its folder as "
    "path=..., or use the sample set: path='asset:longbench/v2.jsonl'."
)
FIELDS = (
    *("question", "choice_A", "choice_B", "choice_C", "choice_D"),
    *("answer", "context", "difficulty", "length"),
)

#: How an answer begins: what a base model goes on from.
BEGINNING = "The correct answer is"
PROMPT = """Please read the following text and answer the question below.

<text>
{context}
</text>

What is the correct answer to this question: {question}
Choices:
(A) {choice_A}
(B) {choice_B}
(C) {choice_C}
(D) {choice_D}

Format your response as follows: "The correct answer is (insert answer here)"."""

_FORM = PROMPT.rpartition("\n\n")[2]
#: Form of the prompt -> wording.
PROMPTS = {"chat": PROMPT, "base": PROMPT.removesuffix(_FORM) + BEGINNING}

# With brackets first, anywhere in the response, then without: the original's order.
_ANSWERS = (r"The correct answer is \(([A-D])\)", r"The correct answer is ([A-D])")


def write_prompt(row: Mapping[str, str], prompt: str = "chat") -> str:
    """Fill the wording with a row's fields; white space around each goes, as in the original.

    Differs from the original, which fills one slot after the other and so also what looks like a
    slot inside a text.
    """
    return write_parts(row, prompt).whole


def write_parts(row: Mapping[str, str], prompt: str = "chat") -> PromptParts:
    """Return the parts of `write_prompt`'s prompt; ``prompt`` is a key of `PROMPTS`."""
    texts = {name: text.strip() for name, text in row.items()}
    head, question = (part.format(**texts) for part in PROMPTS[prompt].split("{context}"))
    return PromptParts(head=head, context=texts["context"], question=question)


def extract_answer(response: str) -> str | None:
    """Return the letter that a response settles on, or None."""
    text = response.strip().replace("*", "")
    matches = (re.search(pattern, text) for pattern in _ANSWERS)
    return next((match.group(1) for match in matches if match), None)


def read_rows(path: str) -> list[dict[str, str]]:
    """Read the rows of a file (a JSON list, or an object a line), or of a folder that has it."""
    location = find_data(path, benchmark="LongBench v2", how_to_get=HOW_TO_GET)
    if location.is_dir():
        name = next((n for n in ("data.json", "v2.jsonl") if (location / n).is_file()), "data.json")
        location = find_data(str(location / name), benchmark="LongBench v2", how_to_get=HOW_TO_GET)
    read = read_json_lines if location.suffix == ".jsonl" else read_json_list
    rows = [_check_row(row, where) for where, row in read(location)]
    if not rows:
        raise ValueError(f"{location} holds no rows. {HOW_TO_GET}")
    return rows


def _check_row(row: Mapping[str, Any], where: str) -> dict[str, str]:
    checked = {name: take(row, name, where) for name in FIELDS}
    for name, allowed in (
        ("answer", "ABCD"),
        ("difficulty", V2_DIFFICULTIES),
        ("length", V2_LENGTHS),
    ):
        if row[name] not in tuple(allowed):
            raise ValueError(f"{where}: {name}={row[name]!r} must be one of {', '.join(allowed)}.")
    return checked


@dataclass(frozen=True, kw_only=True)
class LongBenchV2Options(ReaderOptions):
    """What a data set config says."""

    path: str = "opencompass/longbenchv2"
    """A file, a folder with data.json or v2.jsonl in it, ``asset:NAME``, or OpenCompass's id."""
    prompt: str = "chat"
    """A key of `PROMPTS`: the original's wording, or one that a base model goes on from."""

    def __post_init__(self) -> None:
        """Check the names."""
        super().__post_init__()
        reject_unknown("prompt of LongBench v2", [self.prompt], PROMPTS)


class LongBenchV2Dataset(CheckedDataset):
    """OpenCompass data set of LongBench v2."""

    options_class = LongBenchV2Options
    title = "LongBench v2 data set"
    table_keys = ("benchmark", "task")
    #: Holds tokenizers for all data sets of a process.
    store: ClassVar[HaystackStore] = HaystackStore()

    @classmethod
    def make_rows(cls, options: LongBenchV2Options) -> Iterator[dict[str, str]]:
        """Make the samples: prompt, given (the answer's beginning), answer, difficulty, length."""
        given = BEGINNING if options.prompt == "base" else ""
        for row in read_rows(options.path):
            columns = {name: row[name] for name in ("answer", "difficulty", "length")}
            prompt = options.read(write_parts(row, options.prompt), cls.store.tokenizer)
            yield {"prompt": prompt, "given": given, **columns}


class LongBenchV2Evaluator(CompleteEvaluator):
    """Reports accuracy over all samples and by difficulty and length, in percent.

    Figures: accuracy, accuracy_easy, ..., accuracy_long (those with samples), num_samples_easy,
    ..., num_unanswered (answers without "The correct answer is (X)", which count as wrong).
    Differs from the original's ``result.py``, whose branch for medium texts asks for "short"
    again, so that it counts them as long.
    """

    judges_by_sample = True
    ceiling = "gold answer"
    chance_figure = "accuracy"

    def chance(self, sample: Mapping[str, Any]) -> float | None:
        """Return the share of one of the four choices."""
        return 25.0

    def solve(self, sample: Mapping[str, Any]) -> str | None:
        """Return the gold answer in its form, after what the prompt gave of it."""
        return f"{BEGINNING} ({sample['answer']})".removeprefix(sample["given"])

    def judge(self, prediction: str, reference: Mapping[str, str]) -> dict[str, Any]:
        """Compare the letter chosen with the sample's."""
        chosen = extract_answer(reference["given"] + prediction)
        return {
            "prediction": prediction,
            "chosen": chosen,
            **{name: reference[name] for name in ("answer", "difficulty", "length")},
            "correct": chosen == reference["answer"],
        }

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Count over all answers and over those of each difficulty and length."""
        figures: dict[str, Any] = {
            "accuracy": percent([detail["correct"] for detail in details]),
            "num_unanswered": sum(detail["chosen"] is None for detail in details),
        }
        for column, names in (("difficulty", V2_DIFFICULTIES), ("length", V2_LENGTHS)):
            for name in names:
                hits = [detail["correct"] for detail in details if detail[column] == name]
                if hits:
                    figures[f"accuracy_{name}"] = percent(hits)
                    figures[f"num_samples_{name}"] = len(hits)
        return figures
