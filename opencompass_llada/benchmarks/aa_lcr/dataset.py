"""Makes the OpenCompass data set of AA-LCR; texts and wording are those of the stock class.

The stock class (OpenCompass 0.5.4, datasets/aa_lcr.py) reads a local folder as it is on the hub.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass.datasets.aa_lcr import AALCRDataset

from opencompass_llada.benchmarks.aa_lcr import embedded
from opencompass_llada.benchmarks.aa_lcr.facts import (
    CSV_FILE,
    SCORED_BY,
    SUITE,
    ZIP_FILE,
)
from opencompass_llada.benchmarks.aa_lcr.scoring import check_judge
from opencompass_llada.benchmarks.published.dataset import (
    SuiteDataset,
    SuiteOptions,
    SuiteSample,
    cut_prompt,
    find_file,
)
from opencompass_llada.options import reject_unknown

#: What the stock judge and its table by category are told of a sample.
_TOLD = ("question_id", "document_category", "document_set_id", "question")


@dataclass(frozen=True, kw_only=True)
class AaLcrOptions(SuiteOptions):
    """What a data set config says."""

    scored_by: str = "judge"
    """``judge``, or ``overlap``: words shared with the answer, which is not the published score."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        reject_unknown("scored_by", [self.scored_by], SCORED_BY)


class AaLcrSuiteDataset(SuiteDataset):
    """All questions. The base-model prompt goes on into ``Answer:``."""

    options_class = AaLcrOptions
    suite = SUITE

    @classmethod
    def read_samples(cls, options: AaLcrOptions, folder: Path) -> Iterator[SuiteSample]:
        """Read the questions and, of the archive, their documents."""
        files = [find_file(SUITE, folder, name) for name in (CSV_FILE, ZIP_FILE)]
        try:
            samples = AALCRDataset.load(str(folder))["test"]
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{' or '.join(map(str, files))} is not as published ({type(error).__name__}: "
                f"{error}); fetch them again. {SUITE.how_to_get}"
            ) from error
        for sample in samples:
            yield SuiteSample(
                parts=cut_prompt(
                    sample["prompt"], "BEGIN INPUT DOCUMENTS\n\n", "\n\nEND INPUT DOCUMENTS"
                ),
                begins="\nAnswer:",
                gold="; ".join(sample["answer"]),
                columns={"answer": sample["answer"], **{name: sample[name] for name in _TOLD}},
            )

    @classmethod
    def write_embedded(cls, folder: Path) -> None:
        """Write four questions over two generated documents each."""
        embedded.write(folder)

    @classmethod
    def check_data(cls, same: Sequence[Mapping[str, Any]]) -> None:
        """Look for the files, and for a judge where one is to score."""
        for options in same:
            if cls.check_options(**options).scored_by == "judge":
                check_judge()
        super().check_data(same)
