"""Tables of the closed studies: post-training, and three attentions."""

from __future__ import annotations

import statistics
import sys

from recording import ROOT

from documented.markdown import make
from documented.records import read_record
from documented.registry import table

sys.path.append(str(ROOT / "studies"))

import attention_study_report as attention_report  # noqa: E402
from finetune_study_pairs import find_pairs, print_difference  # noqa: E402
from finetune_study_report import COLUMNS, group_seeds, measure, print_value  # noqa: E402


@table("study")
def post_training() -> str:
    """Return the study of post-training, over strategies and seeds."""
    shown = ("needle target", "needle 2 x target", "RULER 512", "RULER target")
    means = ("perplexity 512", "perplexity target")
    rows = [row | {"strategy": "all"} for row in read_record("finetune_study.json")["rows"]]
    lines = []
    for first, cells in group_seeds(measure(rows)):
        label = f"{first.scaling}, adapters" if first.method == "lora" else first.scaling
        figures = [print_value(cells[name].dropna(), 1) for name in shown]
        figures += [f"{statistics.fmean(cells[name].dropna()):.1f}" for name in means]
        lines.append([str(first.factor), label, *figures])
    return make(["factor", "scaling", *shown, *means], lines)


@table("pairs")
def pairs() -> str:
    """Return the differences between cells of the study that are alike in everything else."""
    shown = ("needle target", "needle 2 x target", "RULER 512", "RULER target",
             "perplexity target", "perplexity 2 x target")  # fmt: skip
    rows = read_record("finetune_study.json")["rows"]
    scaled = [row for row in rows if row["scaling"] != "none" and row["method"] == "full"]
    lines = []
    for label, held, *question in (
        ("diffusion_ntk - ntk", rows, "scaling", "diffusion_ntk", "ntk"),
        ("adaptive - eod", scaled, "strategy", "adaptive", "eod"),
        ("adaptive - direct", scaled, "strategy", "adaptive", "direct"),
        ("adapters - all weights", rows, "method", "lora", "full"),
    ):
        for factor, found in find_pairs(held, *question).groupby(level="factor"):
            cells = [print_difference(found[name], COLUMNS[name][1]) for name in shown]
            lines.append([label, str(factor), str(len(found)), *cells])
    return make(["pairs", "factor", "n", *shown], lines)


@table("attention_study", "attention_study_229m.json")
@table("attention_study_49m", "attention_study_49m.json")
def attention(record: str) -> str:
    """Return the figures of the cells of a study of three attentions."""
    rows = list(read_record(record)["rows"])
    return make(*attention_report.make_table(attention_report.measure(rows)))


@table("attention_passes", "attention_study_229m.json")
@table("attention_passes_49m", "attention_study_49m.json")
def attention_passes(record: str) -> str:
    """Return the forward passes of the cells of a study of three attentions."""
    return make(*attention_report.make_passes_table(list(read_record(record)["rows"])))
