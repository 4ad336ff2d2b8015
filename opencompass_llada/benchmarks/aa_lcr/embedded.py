"""Writes the few samples of AA-LCR that come as code: questions over generated documents."""

from __future__ import annotations

import csv
import random
import zipfile
from pathlib import Path

from opencompass_llada.benchmarks.aa_lcr.facts import CSV_FILE, ZIP_FILE
from opencompass_llada.benchmarks.published.texts import scatter
from opencompass_llada.synthetic.grammar import draw_held_out

NUM_SAMPLES = 4
#: Sentences of each of two documents: about 600 of tiny-llada's tokens together.
NUM_SENTENCES = 8
COLUMNS = (
    *("document_category", "document_set_id", "question_id", "question", "answer"),
    *("data_source_filenames", "data_source_urls", "input_tokens"),
)


def write(folder: Path) -> None:
    """Write the table of questions and the archive of documents."""
    rng = random.Random("aa_lcr")
    (folder / ZIP_FILE).parent.mkdir(parents=True, exist_ok=True)
    with (
        (folder / CSV_FILE).open("w", encoding="utf-8", newline="") as file,
        zipfile.ZipFile(folder / ZIP_FILE, "w") as archive,
    ):
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for number in range(NUM_SAMPLES):
            needles = [draw_held_out(rng), draw_held_out(rng)]
            names = [f"document_{number}_{i}.txt" for i in range(2)]
            for name, needle in zip(names, needles, strict=True):
                text = scatter(rng, [needle.fact], NUM_SENTENCES)
                archive.writestr(f"lcr/Reports/set_{number}/{name}", text)
            table.writerow(
                {
                    "document_category": "Reports",
                    "document_set_id": f"set_{number}",
                    "question_id": number + 1,
                    "question": needles[0].question,
                    "answer": needles[0].value,
                    "data_source_filenames": ";".join(names),
                    "data_source_urls": "",
                    "input_tokens": 0,
                }
            )
