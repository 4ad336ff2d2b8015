"""Makes OpenCompass data sets of LongBench and LongBench-E, one a task, and scores them.

The files are read as they are published; no loader script is run. Truncation is the model's
business (its ``drop_middle``). Tasks are put together by the summarizer.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from opencompass_llada.benchmarks.data_files import (
    MissingDataError,
    find_data,
    read_json_lines,
    take,
)
from opencompass_llada.benchmarks.longbench.facts import (
    BUCKETS,
    TASKS,
    WORDINGS,
    LongBenchTask,
    bucket_of,
    list_tasks,
)
from opencompass_llada.benchmarks.longbench.scoring import METRICS
from opencompass_llada.benchmarks.needle.haystack import HaystackStore
from opencompass_llada.benchmarks.opencompass_bases import CheckedDataset, CompleteEvaluator, mean
from opencompass_llada.benchmarks.readers import PromptParts, ReaderOptions
from opencompass_llada.options import reject_unknown

logger = logging.getLogger(__name__)

#: Gold answers that ROUGE scores: of GovReport's summaries, 0.2 s each.
MOST_SUMMARIES = 10
#: Of a sample of passage retrieval, in English and Chinese (arXiv 2308.14508, section 3.1).
NUM_PARAGRAPHS = 30
DEFAULT_PATH = "opencompass/Longbench"
HOW_TO_GET = (
    "Set COMPASS_DATA_CACHE to the folder whose data/Longbench/data holds LongBench's jsonl files "
    "(data.zip of THUDM/LongBench on the Hugging Face hub, unpacked or as it is in data/Longbench; "
    "DATASET_SOURCE=HF downloads it), give the folder itself as path=..., or use the sample set: "
    "path='asset:longbench' (LLADA_DATA=embedded, or data='embedded' in a config)."
)


@dataclass(frozen=True, kw_only=True)
class LongBenchOptions(ReaderOptions):
    """What a data set config says."""

    task: str
    """A key of `facts.TASKS`."""
    benchmark: str = "longbench"
    """``longbench``, or ``longbench_e``: the set with even lengths, of 13 tasks."""
    path: str = DEFAULT_PATH
    """LongBench's folder: ``asset:NAME``, a folder, or ``opencompass/Longbench``."""
    wording: str = "original"
    """A key of `facts.WORDINGS`: LongBench's prompts, or OpenCompass's."""

    def __post_init__(self) -> None:
        """Check the names."""
        super().__post_init__()
        reject_unknown("LongBench wording", [self.wording], WORDINGS)
        list_tasks(self.benchmark, [self.task])


class LongBenchDataset(CheckedDataset):
    """OpenCompass data set of one task; keywords are the fields of `LongBenchOptions`."""

    options_class = LongBenchOptions
    title = "LongBench data set"
    #: Holds tokenizers for all data sets of a process.
    store: ClassVar[HaystackStore] = HaystackStore()

    @classmethod
    def make_rows(cls, options: LongBenchOptions) -> Iterator[dict[str, Any]]:
        """Make the samples: prompt, answers, all_classes, length."""
        for row in read_rows(options.path, TASKS[options.task], options.benchmark):
            parts = _write_parts(options, row.pop("context"), row.pop("input"))
            yield {"prompt": options.read(parts, cls.store.tokenizer), **row}

    @classmethod
    def check_data(cls, same: Sequence[Mapping[str, Any]]) -> None:
        """Read the rows; for a reader of the last window, see that each has room for its question.

        Questions that surely fit, since a token has a character at least, are not counted.
        """
        options = cls.check_options(**same[0])
        rows = read_rows(options.path, TASKS[options.task], options.benchmark)
        for row in rows if options.window is not None else ():
            parts = _write_parts(options, "", row["input"])
            if len(parts.whole) + options.window_reserve > options.window // 2:
                options.read(parts, cls.store.tokenizer)


def _write_parts(options: LongBenchOptions, context: str, question: str) -> PromptParts:
    """Return a prompt's parts; `format` fills no slot inside a text, as OpenCompass's own would."""
    template = WORDINGS[options.wording][options.task]
    head, ending = (part.format(input=question) for part in template.split("{context}"))
    return PromptParts(head=head, context=context, question=ending)


def read_rows(path: str, task: LongBenchTask, benchmark: str) -> list[dict[str, Any]]:
    """Read all rows of a task, and warn where there are fewer or more than published.

    Each has context and input (texts), answers and all_classes (lists of texts), and length: words,
    in Chinese characters, of the first three.
    """
    folder = find_data(path, benchmark="LongBench", how_to_get=HOW_TO_GET)
    name = task.name + ("_e" if benchmark == "longbench_e" else "")
    file = _find_file(folder, f"{name}.jsonl")
    rows = [_check_row(row, task, where) for where, row in read_json_lines(file)]
    if not rows:
        raise ValueError(f"{file} holds no rows. {HOW_TO_GET}")
    published = task.num_samples if benchmark == "longbench" else sum(task.bucket_samples)
    if len(rows) != published and not path.startswith("asset:"):
        logger.warning(
            "%s holds %d rows and %d are published: scores are of these rows only.",
            *(file, len(rows), published),
        )
    return rows


def _find_file(folder: Path, name: str) -> Path | zipfile.Path:
    """Find a data file in the folder, its data/ or its data.zip."""
    for path in (folder / "data" / name, folder / name):
        if path.is_file():
            return path
    archive = folder / "data.zip"
    if archive.is_file():
        if not zipfile.is_zipfile(archive):
            raise ValueError(f"{archive} is no zip archive; it is damaged. Fetch it again.")
        inside = zipfile.Path(archive, f"data/{name}")
        if inside.is_file():
            return inside
    present = {path.stem for path in [*folder.glob("data/*.jsonl"), *folder.glob("*.jsonl")]}
    raise MissingDataError(
        f"LongBench's file {name!r} is not in {folder}, its data/ or its data.zip (tasks there: "
        f"{', '.join(sorted(present)) or 'none'}). {HOW_TO_GET}",
        "longbench",
    )


def _check_row(row: Mapping[str, Any], task: LongBenchTask, where: str) -> dict[str, Any]:
    checked = {name: take(row, name, where) for name in ("context", "input")}
    checked["answers"] = list(take(row, "answers", where, Sequence[str]))
    length = take(row, "length", where, int)
    classes = take({"all_classes": None, **row}, "all_classes", where, Sequence[str] | None)
    if not checked["answers"]:
        raise ValueError(
            f"{where}: answers={row['answers']!r} must be a list of at least one text."
        )
    if task.metric == "classification" and not classes:
        raise ValueError(f"{where}: a row of {task.name} must name its classes in all_classes.")
    return {**checked, "all_classes": list(classes or ()), "length": length}


def score_answer(
    task: LongBenchTask, prediction: str, answers: Sequence[str], classes: Sequence[str] = ()
) -> float:
    """Score one answer, 0 to 100, by the best of its gold answers."""
    shown = prediction.lstrip("\n").split("\n")[0] if task.first_line else prediction
    metric = METRICS[task.metric]
    return 100 * max(metric(shown, answer, classes) for answer in answers)


class LongBenchEvaluator(CompleteEvaluator):
    """Reports ``score``, from 0 to 100, not rounded.

    Differs from OpenCompass's evaluators, which add up the scores of several gold answers in
    counting, retrieval and classification, where LongBench takes the best.
    """

    judges_by_sample = True
    ceiling = "gold answer"

    def chance(self, sample: Mapping[str, Any]) -> float | None:
        """Return the share of one class, or of one of 30 paragraphs; of other metrics no one knows.

        Classes count the same: how often each is the answer cannot be seen without the context.
        """
        if self.task.metric == "classification":
            return 100 / len(sample["all_classes"])
        return 100 / NUM_PARAGRAPHS if self.task.metric.startswith("retrieval") else None

    def solve(self, sample: Mapping[str, Any]) -> str | None:
        """Return the first gold answer."""
        return str(sample["answers"][0])

    def __init__(self, task: str, by_length: bool = False) -> None:
        """Keep a key of `facts.TASKS`.

        With ``by_length`` there are ``score_BUCKET`` and ``num_samples_BUCKET`` besides, for each
        of LongBench-E's buckets that has samples.
        """
        super().__init__()
        reject_unknown("LongBench task", [task], TASKS)
        self.task = TASKS[task]
        self.by_length = by_length
        if self.task.metric.startswith("rouge"):
            self.most_bound = MOST_SUMMARIES

    def judge(self, prediction: str, reference: Mapping[str, Any]) -> dict[str, Any]:
        """Return prediction, answers, length and score of a sample."""
        answers, classes = reference["answers"], reference["all_classes"]
        return {
            "prediction": prediction,
            "answers": list(answers),
            "length": reference["length"],
            "score": score_answer(self.task, prediction, answers, classes),
        }

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average over all answers and, if that is asked for, over each bucket that has some."""
        figures = {"score": mean(details)}
        for bucket in BUCKETS if self.by_length else ():
            within = [detail for detail in details if bucket_of(detail["length"]) == bucket]
            if within:
                figures[f"score_{bucket}"] = mean(within)
                figures[f"num_samples_{bucket}"] = len(within)
        return figures
