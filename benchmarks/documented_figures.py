"""The tables and figures of the docs, from their records: checked, or written anew.

    python benchmarks/documented_figures.py            # shows what differs from the records
    python benchmarks/documented_figures.py --write    # writes them

In a page a table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; `TABLES` says how it
is made. A figure in the text, with its unit, is followed by ``<!-- figure: RECORD#/PATH -->``, and
has as many digits as the page gives it. RECORD is a file of docs/records or benchmarks/records, or
an asset's training.json (``tiny-llada.json``). PATH is the keys of a JSON file (``~1`` for a slash
in a key; ``*`` and ``niah_*`` for the mean over all such), or ``column=value&column=value/column``
of a CSV file, the mean over its rows. ``times 100/120`` may follow.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import re
import statistics
import string
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import unified_diff
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
from recording import ROOT, exit_on_error

sys.path.append(str(ROOT / "studies"))

import attention_study_report as attention_report  # noqa: E402
from finetune_study_pairs import find_pairs, print_difference  # noqa: E402
from finetune_study_report import COLUMNS, group_seeds, measure, print_value  # noqa: E402

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
TABLE = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
FIGURE = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)([ *%]*[a-z]*<!-- figure: (.+?) -->)", re.IGNORECASE)
Template = str


@functools.cache
def read_record(name: str) -> Any:
    """Return a record: a JSON file's value, a CSV file's table."""
    asset = ROOT / "opencompass_llada/assets" / Path(name).stem / "training.json"
    places = (ROOT / "docs/records" / name, ROOT / "benchmarks/records" / name, asset)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(f"no record {name!r} in docs/records, benchmarks/records or the assets.")
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype={"length": "Int64", "depth": "Int64"})
    return json.loads(path.read_text(encoding="utf-8"))


def look_up(reference: str) -> Any:
    """Return what ``RECORD#PATH``, perhaps ``times`` a number, refers to.

    Raises:
        ValueError: If the record has no such figure.
    """
    where, _, factor = reference.partition(" times ")
    name, _, path = where.partition("#")
    record = read_record(name)
    try:
        value = average(record, path) if name.endswith(".csv") else descend(record, path)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{reference!r}: {name} holds no {path!r} ({error!r}).") from error
    return value * float(Fraction(factor)) if factor else value


def descend(record: Any, path: str) -> Any:
    """Return the value at the keys of a path; of ``*`` the mean over all keys there."""
    for number, key in enumerate(keys := path.strip("/").split("/")):
        if "*" in key:
            held = dict(enumerate(record)) if isinstance(record, list) else record
            rest, found = "/".join(keys[number + 1 :]), fnmatch.filter(map(str, held), key)
            values = [held[name] if name in held else held[int(name)] for name in found]
            return statistics.fmean(descend(v, rest) if rest else v for v in values)
        record = record[int(key) if isinstance(record, list) else key.replace("~1", "/")]
    return record


def average(frame: pd.DataFrame, path: str) -> float:
    """Return the mean of a column over the rows that ``column=value&...`` names."""
    conditions, _, column = path.rpartition("/")
    for condition in conditions.split("&"):
        name, _, value = condition.partition("=")
        frame = frame[frame[name].astype(str) == value]
    if frame.empty or frame[column].isna().any():
        raise KeyError(path)
    return float(frame[column].mean())


class Filler(string.Formatter):
    """Fills ``{PATH:FORMAT}`` of a template with a record's figures."""

    def __init__(self, base: str) -> None:
        """Look up below a base, ``RECORD#PATH``."""
        self.base = base

    def get_field(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the figure at a path below the base, or of ``RECORD#PATH``."""
        return look_up(name if "#" in name else self.base + name), name


def fill(base: str, template: Template) -> str:
    """Return a template with each ``{PATH:FORMAT}`` looked up below ``RECORD#PATH``."""
    return Filler(base).vformat(template, (), {}).replace("%", " %")


def make(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grid(
    headings: Sequence[str], rows: Mapping[str, str], cells: Sequence[Template]
) -> Callable[[], str]:
    """Return a maker of a table whose rows have one form: label -> base of the cells' paths."""

    def build() -> str:
        filled = [[label, *(fill(base, c) for c in cells)] for label, base in rows.items()]
        return make(headings, filled)

    return build


def by_length(
    headings: Sequence[str], rows: Mapping[str, str], path: str, cell: Template, name: str
) -> Callable[[], str]:
    """Return a maker of a table of a CSV record with a column for each length.

    Args:
        headings: Of the table; all after the first are lengths.
        rows: Label -> conditions of the rows.
        path: More conditions of all rows.
        cell: Template of a cell.
        name: The record.
    """

    def build() -> str:
        lengths = [heading.replace(",", "") for heading in headings[1:]]
        sources = {label: of if "#" in of else f"{name}#{of}" for label, of in rows.items()}
        return make(
            headings,
            [
                [label, *(fill(f"{of}&{path}length={n}/", cell) for n in lengths)]
                for label, of in sources.items()
            ],
        )

    return build


LLADA, AR = "title=tiny-llada&scaling=", "title=tiny-ar&scaling="
ENTRIES = {
    "tiny-llada": LLADA + "none",
    "tiny-llada, ntk": LLADA + "ntk target_length=2048",
    "tiny-llada, diffusion_ntk": LLADA + "diffusion_ntk target_length=2048",
    "tiny-llada-long": "title=tiny-llada-long&scaling=none",
    "tiny-block": "title=tiny-block&scaling=none",
    "tiny-block, ntk": "title=tiny-block&scaling=ntk target_length=2048",
    "tiny-ar": AR + "none",
    "tiny-ar, ntk": AR + "ntk target_length=2048",
}
SUITE_PROBES = ("changing_state", "section_lists", "linked_needles", "graph_walks", "coreference")
SUITE_LENGTHS = (512, 1024, 2048)
TIER_MODELS = ("tiny_llada", "tiny_llada_long", "tiny_block")
REDUCED_LENGTHS = ("4096", "8192", "16384", "32768", "65536", "131072")
_SUITE_MODELS = ("tiny-llada", "tiny-llada-long", "tiny-block", "tiny-ar")
SUITE_ROWS = (
    *_SUITE_MODELS,
    *(f"{model} (last window)" for model in _SUITE_MODELS),
    *(f"{model} (no context)" for model in _SUITE_MODELS),
    *("chance", "exact solver"),
)
PROBES = ("needlebench", "question", "prefix", "pairs", "copy", "strings")
PROBES += ("ruler_niah", "ruler_vt", "ruler_fwe", "ruler_cwe")
LENGTHS = ("512", "2048", "8192", "16384")


def fidelity_table() -> str:
    """Return what each fast mode costs: score difference, its interval, equal answers, passes."""
    results = read_record("fidelity.json")["results"]
    # Records from before 2026-11-28 have a bootstrap's intervals, which are too narrow.
    holds = "num_units" in results["prompt"]["NIAH 512"]
    interval = " ({difference_low:.1f} to {difference_high:.1f})" if holds else ""
    cell = "{score_difference:+.1f}" + interval + ", {answer_agreement:.0%}, {second_passes:.0f}"
    groups = list(results["prompt"])
    rows = [
        [mode, *(fill(f"fidelity.json#/results/{mode}/{group}/", cell) for group in groups)]
        for mode in results
    ]
    note = "" if holds else "\n(No intervals: the record is older than they are.)\n"
    losing = "; ".join(
        mode
        for mode, found in results.items()
        if min(group["score_difference"] for group in found.values()) < -0.5
    )
    same = all(
        found[group]["answer_agreement"] == 1 for found in results.values() for group in groups[:2]
    )
    note += f"\nThese modes lose more than 0.5 points on some group: {losing}.\n"
    note += (
        f"On needle in a haystack {'no mode changes' if same else 'some modes change'} an answer.\n"
    )
    return make(["mode", *groups], rows) + note


def preset_table() -> str:
    """Return by what the sampler's preset was chosen: each mode's largest loss, and its speed."""
    rows = []
    for mode, groups in read_record("fidelity.json")["results"].items():
        worst = min(groups, key=lambda name: groups[name]["score_difference"])
        loss = groups[worst]["score_difference"]
        speeds = [own["speed_up"] for own in groups.values()]
        saved = [own["first_passes"] / own["second_passes"] for own in groups.values()]
        rows.append(
            [
                mode,
                f"{loss:+.1f} ({worst})" if loss < 0 else "none",
                *(f"{min(own):.1f} to {max(own):.1f}" for own in (speeds, saved)),
                "yes" if loss >= -0.5 else "",
            ]
        )
    columns = ["largest loss, points", "times as fast (CPU)", "times fewer passes", "at most 0.5"]
    return make(["mode", *columns], rows)


def time_table() -> str:
    """Return the times of generation on one H100; goals, set before measuring, in parentheses."""
    goals = {"4K+32 prompt": ("11", ""), "32K+32 prompt": ("35", "1.25"),
             "64K+32 prompt": ("42", "1.15"), "128K+32 prompt-fp8": ("", "1.2"),
             "32K+64 prompt": ("55", ""), "16K+512 dual": ("35", ""),
             "16K+512 prompt": ("35", "")}  # fmt: skip
    shown = {"4K+32": ("exact", "prompt"), "32K+32": ("prompt", "prompt-fp8"),
             "32K+32/16": ("prompt",), "64K+32": ("prompt", "prompt-fp8"),
             "128K+32": ("prompt-fp8",), "32K+64": ("prompt",),
             "16K+512": ("dual", "prompt")}  # fmt: skip
    rows = []
    for shape, modes in shown.items():
        for mode in modes:
            base = f"inference_h100.json#/run {shape.replace('/', '~1')}/"
            goal = goals.get(f"{shape} {mode}", ("", ""))
            baseline, floor = (f" ({value})" if value else "" for value in goal)
            against = "{against_baseline:#.3g}" if shape != "128K+32" else "out of memory"
            cells = ("{seconds:#.3g}", "{nfe}", against + baseline, "{against_floor:#.4g}" + floor,
                     "{peak_allocated_gb:.1f}")  # fmt: skip
            rows.append([
                shape.split("/")[0].replace("+", " + ") + fill(base, ", {shape/steps} steps"),
                mode.replace("-fp8", ", float8"),
                *(fill(f"{base}modes/{mode}/", cell) for cell in cells),
            ])  # fmt: skip
    return make(["tokens", "mode", "s", "NFE", "times as fast as the baseline (goal)",
                 "times one full pass (goal)", "GB"], rows)  # fmt: skip


def needle_intervals_table() -> str:
    """Return the intervals of means over all cells with NeedleBench's needles and with own ones."""
    cell = "{mean:.0f} [{low:.0f}, {high:.0f}]"
    rows = [
        [row["model"].partition(" target")[0].replace(", none", ""),
         cell.format(**row["published"]), cell.format(**row["independent"]),
         f"{row['times_narrower']:.1f}"]
        for row in read_record("needle_intervals.json")["rows"] if row["column"] == "all"
    ]  # fmt: skip
    return make(["percent of 200 answers", "published", "independent", "times narrower"], rows)


def coverage_table() -> str:
    """Return coverage and width of the leaderboard's intervals and of two others."""
    return make(
        ["case", "samples", "rate", "ours: coverage, width", "normal", "bootstrap"],
        [
            [row["case"], str(row["samples"]), str(row["rate"])]
            + [f"{row['coverage'][n]} %, {row['width'][n]}" for n in row["coverage"]]
            for row in read_record("interval_coverage.json")["results"]
            if row["samples"] in ((20, 100) if "losses" in row["case"] else (10, 50))
            and (row["case"] != "graded losses" or row["rate"] in (0.02, 0.1))
        ],
    )


#: How paired_comparisons.py draws needles.
_DRAWN = {"same": "hard for both alike", "own": "hard for each by its own", "once": "asked once"}


def comparisons_table() -> str:
    """Return how often the intervals of differences hold, and pairs of lines are decided."""
    return make(
        ["needles", "number", "rates", "interval: coverage, width", "decided", "intervals apart"],
        [
            [_DRAWN[row["kind"]], str(row["needles"])]
            + ["{:.0%} and {:.0%}".format(*row["rates"]).replace("%", " %")]
            + [f"{row['coverage']} %, {row['width']}"]
            + [f"{row['decided']} %", f"{row['intervals_apart']} %"]
            for row in read_record("paired_comparisons.json")["pairs"]
        ],
    )


def families_table() -> str:
    """Return how often a family of pairs has a wrong decision, and all of them right."""
    return make(
        ["needles", "number", "rates of the lines", "any wrong decision", "all pairs right"],
        [
            [
                _DRAWN[row["kind"]],
                str(row["needles"]),
                ", ".join(f"{100 * r:.0f}" for r in row["rates"]),
            ]
            + [f"{row['any_wrong']} %", f"{row['all_right']} %"]
            for row in read_record("paired_comparisons.json")["groups"]
        ],
    )


def options_table() -> str:
    """Return the accuracy of multiple choice by whole texts and by options alone."""
    return make(
        ["model", "scored", "draws", "right, by seed", "forward passes a question"],
        [
            [row["model"], row["scored"], str(row["draws"] or "exact")]
            + [", ".join(f"{value:.0f} %" for value in row["accuracy_by_seed"])]
            + [f"{row['passes_per_question']:.0f}"]
            for row in read_record("option_scoring.json")["rows"]
        ],
    )


def building_table() -> str:
    """Return time and memory of making RULER's data sets."""
    rows = []
    for length, found in read_record("ruler_build_100_samples.json")["runs"].items():
        cells = [
            f"{sum(task['seconds'] for task in made['tasks'].values()):.1f} s, "
            f"{made['peak_memory'] - made['memory_before']:,} MiB"
            for made in found.values()
        ]
        rows.append([f"{int(length) // 1024}K", *cells])
    return make(["", "OpenCompass", "ours", "ours, from disk"], rows)


def study_table() -> str:
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


def pairs_table() -> str:
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
        for factor, pairs in find_pairs(held, *question).groupby(level="factor"):
            cells = [print_difference(pairs[name], COLUMNS[name][1]) for name in shown]
            lines.append([label, str(factor), str(len(pairs)), *cells])
    return make(["pairs", "factor", "n", *shown], lines)


def percent(block: Mapping[str, Any], lengths: Sequence[str] = LENGTHS) -> str:
    """Return percent of needles found at each length, over depths; ``-`` where not measured."""
    if "hits" not in block:  # means and lowest depths that a log kept
        return " / ".join(f"{block[n][0]}" for n in lengths)
    scale = 100 / block["samples_a_cell"]
    means = {n: scale * statistics.fmean(found.values()) for n, found in block["hits"].items()}
    return " / ".join(f"{means[n]:.1f}" if n in means else "-" for n in lengths)


def scaled_table() -> str:
    """Return NeedleBench's needles with a scaling for more than is needed."""
    long, others = "tiny_llada_long.json#/", "tiny_long_candidates.json#/"
    rows = []
    for run, start in (("13, shipped", long), ("7", others + "tiny_long_third/"),
                       ("14", others + "run_14/")):  # fmt: skip
        for samples in ("_120_samples", ""):
            for scaling in ("", "scaled_for_20480/", "scaled_for_32768/"):
                base = f"{start}{scaling}needle_needlebench{samples}"
                try:
                    block = look_up(base)
                except ValueError:  # not measured
                    continue
                label = f"for {int(scaling[11:16]):,}" if scaling else "none"
                deepest = 100 * block["hits"]["16384"]["0"] / block["samples_a_cell"]
                rows.append([run, str(block["samples_a_cell"]), label, *percent(block).split(" / "),
                             f"{deepest:.1f}"])  # fmt: skip
    return make(["checkpoint", "samples", "scaling", "512", "2,048", "8,192", "16,384",
                 "of it depth 0"], rows)  # fmt: skip


def candidates_table() -> str:
    """Return needles and perplexity of the runs of tiny-llada-long whose record is kept."""
    others, shipped = read_record("tiny_long_candidates.json"), read_record("tiny_llada_long.json")
    runs = {"2": {"perplexity_generated": others["run_3"]["perplexity_generated_shipped"]},
            "3": others["run_3"]}  # fmt: skip
    runs |= {f"4, {k.replace('learning_', '')}": v
             for k, v in others["finishes_of_run_2"].items() if k != "what"}  # fmt: skip
    first = others["tiny_long_first"]
    runs |= {"5": {**first, **first["means_from_the_log"]}, "6": others["tiny_long_second"]}
    runs |= {"7": others["tiny_long_third"]}
    runs |= {str(n): others[f"run_{n}"] for n in (8, 9, 10, 11, 12)}
    runs |= {"**13, shipped**": shipped, "14": others["run_14"]}
    rows = []
    for run, held in runs.items():
        cells = []
        for kinds in (("needle_embedded", "needle_grid"), ("needle_needlebench", "needlebench")):
            block = next((held[kind] for kind in kinds if kind in held), None)
            cells.append(percent(block) if block else "")
            if block:
                samples = block.get("samples_a_cell")
                depths = len(block["hits"]["512"]) if samples else 5
                cells[-1] += f" ({samples or 20} samples, {depths} depths)"
        perplexities = held.get("perplexity_generated", {})
        perplexities = perplexities.get("perplexity", perplexities)
        values = [perplexities[n] for n in LENGTHS if n in perplexities]
        values = [v["perplexity"] if isinstance(v, dict) else v for v in values]
        rows.append([run, *cells, " / ".join(f"{value:.1f}" for value in values)])
    return make(["run", "needle, embedded", "needle, NeedleBench's text",
                 "perplexity of the same 64 tokens"], rows)  # fmt: skip


#: Kinds of weights, in the order of low_precision.py.
PRECISIONS = (
    "float32",
    "bfloat16 with a low half; float32",
    "bfloat16 with a low half; bfloat16",
    "bfloat16 with a low half; 8 bit",
    "bfloat16; bfloat16, as up to 0.2.0",
    "bfloat16, rounded at random; float32",
)
SPEED = {
    "LoRA, one document": "finetune_speed_h100.json#/rows/0/",
    "LoRA, `direct`: one attention over the row": "finetune_speed_h100.json#/rows/1/",
    "LoRA, `adaptive`: four documents of 16K": "finetune_speed_h100.json#/rows/2/",
    "all weights, FSDP2 and Ulysses": "finetune_speed_two_h100.json#/rows/0/",
}


def optimizer_table() -> str:
    """Return memory and time of an optimiser's step by kind of weights."""
    rows = read_record("optimizer_step_h200.json")["rows"]
    cells = ["{held_bytes_a_weight:.0f}", "{held_gb:.1f}", "{seconds_a_step times 1000:.0f}",
             "{time_ratio:.2f}"]  # fmt: skip
    headings = ["weights; moments; step", "bytes a weight", "GB", "ms a step", "of float32's"]
    bases = {row["kind"]: f"optimizer_step_h200.json#/rows/{n}/" for n, row in enumerate(rows)}
    return grid(headings, bases, cells)()


def long_rows_table() -> str:
    """Return what steps on long rows were planned to take and took; a dash where none was run."""
    rows = []
    for number, row in enumerate(read_record("finetune_long_rows.json")["rows"]):
        base, whole = f"finetune_long_rows.json#/rows/{number}/", row["document"] == row["length"]
        kept = "kept" if row["keeps_attention"] else "computed again"
        measured = ["-"] * 4
        memory, host = "{planned_gb:.0f}", "{planned_host_gb:.0f}"
        if "seconds_a_step" in row:
            measured = ["{seconds_a_step:.4g}", "{tokens_per_second:,.0f}", "{mfu:.1%}",
                        "{compile_seconds:.0f}"]  # fmt: skip
            memory += " / {peak_reserved_gb:.0f} / {peak_allocated_gb:.0f}"
            host += " / {host_gb:.0f}"
        documents = "one" if whole else f"{row['length'] // row['document']} of {{document:,}}"
        label = ("LoRA, " if "lora" in row["case"] else "") + f"attention {kept}"
        if row["planned_host_gb"]:
            label += ", offloaded"
        cells = [label, "{processes}", "{length:,}", documents, *measured, memory, host]
        rows.append([fill(base, cell) for cell in cells])
    return make(["", "GPUs", "tokens a row", "documents", "s a step", "tokens a second", "MFU",
                 "s to compile", "GB a GPU", "host GB"], rows)  # fmt: skip


MEMORY = {f"{n} + 32, {kind} cached": f"inference_h100.json#/run {n}+32/modes/{mode}/"
          for n, kind, mode in (("32K", "bfloat16", "prompt"), ("32K", "float8", "prompt-fp8"),
                                ("64K", "bfloat16", "prompt"), ("64K", "float8", "prompt-fp8"),
                                ("128K", "float8", "prompt-fp8"))}  # fmt: skip

LIBRARIES = {
    "plain network, eager": "plain",
    "plain network, torch.compile": "compiled default",
    "plain network, torch.compile, reduce-overhead": "compiled reduce-overhead",
    "ours": "ours",
    "ours, operations of PyTorch": "ours, operations of PyTorch",
    "ours, operations of liger-kernel": "ours, operations of liger-kernel",
    "a step of 32 tokens against the cache, ours": "small pass, ours",
    "a step of 32 tokens, without graphs": "small pass, without graphs",
}


def library_table() -> str:
    """A pass of ours beside what libraries offer: milliseconds, and times ours, by length."""
    lengths = ("2048", "8192", "32768")
    rows = []
    for label, name in LIBRARIES.items():
        bases = [f"library_kernels_h200.json#/lengths/{length}/{name}/" for length in lengths]
        cells = [fill(base, "{seconds times 1000:.2f}") for base in bases]
        if "small" not in name:
            cells = [
                f"{ms} ({fill(b, '{times_ours:.2f}')})" for ms, b in zip(cells, bases, strict=True)
            ]
        rows.append([label, *cells])
    return make(["ms (times ours)", "2,048 tokens", "8,192", "32,768"], rows)


def suite_table(lengths: Sequence[int]) -> str:
    """The first level of each generated suite by model and reader: score and its interval."""
    frame = pd.read_csv(ROOT / "docs/records/suites_tiny_models.csv")
    suites = [f"{suite}_level1" for suite in SUITE_PROBES]
    rows = []
    for entry in SUITE_ROWS:
        cells = []
        for suite in suites:
            for length in lengths:
                chosen = frame[
                    (frame["entry"] == entry)
                    & (frame["column"] == suite)
                    & (frame["length"] == length)
                ]
                row = chosen.iloc[0] if len(chosen) else None
                if row is None or pd.isna(row["score"]):
                    cells.append("the same" if "(last window)" in entry else "-")
                elif pd.isna(row["low"]):
                    cells.append(f"{row['score']:.0f}")
                else:
                    cells.append(f"{row['score']:.0f} [{row['low']:.0f}, {row['high']:.0f}]")
        rows.append([entry, *cells])
    return make(["", *(suite.replace("_", " ") for suite in SUITE_PROBES)], rows)


def tier_scores_table(model: str) -> str:
    """Each tier's difference from the exact pass, points, with its interval, by group."""
    groups = read_record(f"tier_fidelity_{model}.json")["scores"]
    tiers = next(iter(groups.values()))
    rows = []
    for tier in tiers:
        cells = []
        for own in groups.values():
            found = own[tier]
            if tier == "exact":
                cells.append(f"{found['score']:.1f}")
                continue
            span = "" if found["difference_low"] is None else (
                f" [{found['difference_low']:.1f}, {found['difference_high']:.1f}]"
            )  # fmt: skip
            cells.append(f"{found['difference']:+.1f}{span}")
        rows.append([tier, *cells])
    named = [f"{name} (n {own['exact']['num_samples']})" for name, own in groups.items()]
    return make(["points", *named], rows)


def tier_layers_table() -> str:
    """The residual stream's error behind the first and the last layer, by model, length, tier."""
    rows = []
    for model in TIER_MODELS:
        for length, tiers in read_record(f"tier_fidelity_{model}.json")["layers"].items():
            for tier, errors in tiers.items():
                shown = (f"{100 * error:.1f} %" for error in (errors[1], errors[-1]))
                rows.append([model.replace("_", "-"), f"{int(length):,}", tier, *shown])
    return make(["model", "tokens", "tier", "behind the first layer", "the last but one"], rows)


def tier_perplexity_table() -> str:
    """What products in float8 cost in nats a token, by model and length."""
    rows = []
    for model in TIER_MODELS:
        for length, own in read_record(f"tier_fidelity_{model}.json")["perplexity"].items():
            nats = f"{own['nats']:+.4f} ({own['standard_error']:.4f})"
            shown = (f"{own[name]:.2f}" for name in ("exact", "products"))
            rows.append([model.replace("_", "-"), f"{int(length):,}", *shown, nats])
    return make(["model", "tokens", "perplexity, exact", "float8 products", "nats more"], rows)


def reduced_table() -> str:
    """Seconds of a generation by tier and prompt, and times as fast as in 16 bit."""
    tiers = ("16 bit", "float8", "float8, half of the keys", "float8, 0.3 of the keys")
    rows = []
    for tier in tiers:
        cells = []
        for length in REDUCED_LENGTHS:
            base = f"reduced_passes_h200.json#/{tier}/{length}/"
            seconds = float(look_up(f"{base}seconds"))
            exact = float(look_up(f"reduced_passes_h200.json#/16 bit/{length}/seconds"))
            cells.append(
                f"{seconds:.3g}" + ("" if tier == "16 bit" else f" ({exact / seconds:.2f})")
            )
        rows.append([tier, *cells])
    return make(["seconds (times as fast)", "4K", "8K", "16K", "32K", "64K", "128K"], rows)


def survival_table() -> str:
    """What benchmarks/survival.py tried and what was not healed, of the parts that were run."""
    record = read_record("survival.json")
    found = [
        ("killed at random, a run", "kills", "kills", "not_healed"),
        ("killed at random, a training", "training", "kills", "not_healed"),
    ]
    for part, run in (("writes", "a run"), ("training/writes", "a training")):
        found += [
            (
                f"killed inside a write or before a move, {run}",
                f"{part}/kill",
                "tried",
                "not_healed",
            ),
            (f"a full disk inside a write, {run}", f"{part}/full_disk", "tried", "not_healed"),
        ]
    found += [
        ("a file damaged, then a report", "damage/report", "cases", "wrong"),
        ("a file damaged, then `-r`", "damage/resumed", "cases", "not_healed"),
        (
            "unfinished answers damaged, then `-r`",
            "damage/unfinished_answers",
            "cases",
            "not_healed",
        ),
    ]
    rows = []
    for label, path, tried, failed in found:
        if path.partition("/")[0] in record:
            part = descend(record, path)
            commit = descend(record, path.partition("/")[0])["commit"][:7]
            rows.append([label, str(part[tried]), str(len(part[failed])), commit])
    tables = {
        name: test
        for name, test in record.get("tables", {}).items()
        if "/" not in name and name.endswith(".py")
    }
    if tables:
        failing = sum(bool(test["status"]) for test in tables.values())
        rows.append(
            [
                "test files with tables of inputs",
                str(len(tables)),
                str(failing),
                record["tables"]["commit"][:7],
            ]
        )
    return make(["what was done", "times", "not healed, or wrong", "commit"], rows)


BLOCK_CAUSAL = "block_causal_h200.json#/"
EXPERTS = "block_causal_experts_h200.json#/"


def block_causal_table() -> str:
    """Return SDAR's own sampler beside ours, by block length."""
    rows = []
    for block in (4, 16, 32):
        theirs, ours = f"{BLOCK_CAUSAL}published block {block}/", f"{BLOCK_CAUSAL}block {block}/"
        seconds = "{seconds:#.3g} ({prefill_seconds:#.3g})"
        each = "{seconds_a_pass times 1000:.1f}"
        cells = [fill(theirs, seconds), fill(ours, seconds + ", {passes} passes")]
        cells += [fill(ours, "{times_as_fast:#.3g}"), f"{fill(theirs, each)} / {fill(ours, each)}"]
        rows.append([str(block), *cells, fill(ours, "{planned_gb:.1f} / {peak_gb:.1f}")])
    return make(["block", "SDAR's own, s (its prompt's pass)", "ours, s (its prompt's pass)",
                 "times as fast (goal 5)", "ms a pass, theirs / ours", "GB, planned / measured"],
                rows)  # fmt: skip


def block_causal_experts_table() -> str:
    """Return the rates of LLaDA2.0-mini's experts by tokens."""
    rows = []
    for label, name in (("dense", "dense"), ("grouped products", "grouped"),
                        ("with gathering and summing", "experts"),
                        ("with the router, too", "layer")):  # fmt: skip
        cell = f"{{operations_a_second/{name} times 1e-12:#.3g}} ({{of_dense/{name}:.2f}})"
        bases = (f"{EXPERTS}experts {tokens}/" for tokens in (32768, 8192, 32))
        rows.append([label, *(fill(base, cell) for base in bases)])
    headings = ["TFLOP/s (of dense; goal 0.5)", "32,768 tokens", "8,192 tokens", "32 tokens"]
    return make(headings, rows)


def attention_table(record: str, *, passes: bool = False) -> str:
    """Return the figures of the cells of a study of three attentions, or their forward passes."""
    rows = list(read_record(record)["rows"])
    if passes:
        return make(*attention_report.make_passes_table(rows))
    return make(*attention_report.make_table(attention_report.measure(rows)))


TABLES: dict[str, Callable[[], str]] = {
    "attention_study": lambda: attention_table("attention_study_229m.json"),
    "attention_study_49m": lambda: attention_table("attention_study_49m.json"),
    "attention_passes": lambda: attention_table("attention_study_229m.json", passes=True),
    "attention_passes_49m": lambda: attention_table("attention_study_49m.json", passes=True),
    "niah_tiny_models": by_length(
        ["mean over 5 depths", "256", "512", "1,024", "2,048"],
        ENTRIES, "metric=accuracy&", "{score:.0f}", "niah_tiny_models.csv",
    ),
    "niah_tiny_models_published": by_length(
        ["mean over 5 depths", "256", "512", "1,024", "2,048", "4,096"],
        ENTRIES, "metric=accuracy&", "{score:.0f}", "niah_tiny_models_published.csv",
    ),
    "niah_tiny_models_needlebench": by_length(
        ["percent, mean over 5 depths, 20 samples a cell", "320", "512"],
        {label: ENTRIES[label] for label in ("tiny-llada", "tiny-llada-long", "tiny-ar")},
        "metric=accuracy&", "{score:.0f}", "niah_tiny_models_needlebench.csv",
    ),
    "ppl_tiny_llada": by_length(
        ["", "256", "512", "1,024", "2,048", "4,096"],
        {label: ENTRIES[f"tiny-llada{', ' * (label != 'none')}{label.replace('none', '')}"]
         for label in ("none", "ntk", "diffusion_ntk")},
        "", "{perplexity:.1f}; {nll_per_token:.2f} ± {standard_error:.2f}", "ppl_tiny_llada.csv",
    ),
    "ppl_paired": grid(
        ["nats a token more than unscaled", "256", "512", "1,024", "2,048"],
        {name: f"perplexity_paired.json#/{name}/difference/"
         for name in read_record("perplexity_paired.json")},
        [f"{{{n}/nats:+.3f}} ± {{{n}/standard_error:.3f}}" for n in (256, 512, 1024, 2048)],
    ),
    "ruler_tiny_models": by_length(
        ["", "512", "1,024"],
        {label: conditions.replace("title=", "entry=").replace("&scaling=none", "")
         .replace("&scaling=", ", ") for label, conditions in ENTRIES.items()},
        "benchmark=ruler&column=NIAH&", "{score:.0f}", "leaderboard_tiny_models.csv",
    ),
    "probes": grid(
        ["held-out probe, %", *PROBES],
        {f"tiny-{name}": f"tiny_{name}_pretraining.json#/history/-1/" for name in ("llada", "ar")},
        [f"{{{probe}:.0f}}" for probe in PROBES],
    ),
    "suite_probes": grid(
        ["held-out probe, %", *(suite.replace("_", " ") for suite in SUITE_PROBES)],
        {name: f"{name}.json#/history/-1/"
         for name in ("tiny-llada", "tiny-ar", "tiny-block", "tiny-llada-long")},
        [f"{{suite_{suite}@512:.0f}}" for suite in SUITE_PROBES],
    ),
    "memory": grid(["", "planned", "measured"], MEMORY,
                   ["{planned_gb:.1f}", "{peak_allocated_gb:.1f}"]),
    "library_kernels": library_table,
    "reduced_passes": reduced_table,
    "tier_layers": tier_layers_table,
    "tier_perplexity": tier_perplexity_table,
    **{f"tiers_{model}": functools.partial(tier_scores_table, model) for model in TIER_MODELS},
    **{f"suites_{length}": functools.partial(suite_table, [length]) for length in SUITE_LENGTHS},
    "block_causal": block_causal_table,
    "block_causal_prefill": grid(
        ["", "blocks of 4", "causal, in chunks", "causal, whole", "against causal (goal 1.2)"],
        {name: f"block_causal_h200.json#/prefill {length}/"
         for name, length in (("32K", 32768), ("128K", 131072))},
        ["{ours/seconds:#.3g}", "{causal, in chunks/seconds:#.3g}", "{causal, whole/seconds:#.3g}",
         "{against_causal:.2f}"],
    ),
    "block_causal_experts": block_causal_experts_table,
    "finetune_speed": grid(
        ["", "tokens a row", "GPUs", "s a step", "tokens a second", "MFU",
         "planned / reserved / allocated GB"],
        SPEED,
        ["{length:,}", "{processes}", "{seconds_a_step:.4g}", "{tokens_per_second:,.0f}",
         "{mfu:.1%}", "{planned_gb:.1f} / {peak_reserved_gb:.1f} / {peak_allocated_gb:.1f}"],
    ),
    "low_precision_updates": grid(
        ["weights; moments", "exact: changed", "projection", "cosine",
         "seen: changed", "projection", "cosine", "loss of the last 150 steps"],
        {label: f"low_precision_updates_h200.json#/rows/{row}/"
         for row, label in enumerate(PRECISIONS)},
        [*(f"{{{part}/{figure}" for part in ("exact", "seen")
           for figure in ("changed_percent:.1f}%", "projection:.3f}", "cosine:.3f}")),
         "{last_loss:.3f}"],
    ),
    "low_precision_runs": grid(
        ["weights; moments", "mean difference to float32", "largest",
         "float32's spread over seeds"],
        {label: f"low_precision_runs_two_h200.json#/rows/{row}/"
         for row, label in enumerate((*PRECISIONS[:2], *PRECISIONS[3:5]))},
        ["{mean_difference:+.4f}", "{largest_difference:.4f}", "{spread_of_float32:.4f}"],
    ),
    "finetune_float8": grid(
        ["frozen weights", "s a step", "tokens a second", "MFU",
         "planned / reserved / allocated GB"],
        {"16 bits, `keep_attention`": "finetune_speed_float8_h200.json#/rows/0/",
         "float8, `keep_attention`": "finetune_speed_float8_h200.json#/rows/1/",
         "float8, `keep_projections`, `keep_mlp: 32`": "finetune_speed_float8_h200.json#/rows/3/"},
        ["{seconds_a_step:.4g}", "{tokens_per_second:,.0f}", "{mfu:.1%}",
         "{planned_gb:.1f} / {peak_reserved_gb:.1f} / {peak_allocated_gb:.1f}"],
    ),
    "low_precision_frozen": grid(
        ["frozen weights", "mean difference", "largest", "spread over seeds"],
        {label: f"low_precision_frozen_cpu.json#/rows/{row}/"
         for row, label in enumerate(("not rounded", "float8"))},
        ["{mean_difference:+.4f}", "{largest_difference:.4f}", "{spread_of_unrounded:.4f}"],
    ),
    "optimizer_step": optimizer_table,
    "finetune_long_rows": long_rows_table,
    "fidelity": fidelity_table,
    "preset": preset_table,
    "time": time_table,
    "interval_coverage": coverage_table,
    "paired_comparisons": comparisons_table,
    "paired_families": families_table,
    "needle_intervals": needle_intervals_table,
    "option_scoring": options_table,
    "ruler_build": building_table,
    "study": study_table,
    "pairs": pairs_table,
    "scaled": scaled_table,
    "candidates": candidates_table,
    "survival": survival_table,
}  # fmt: skip


def rewrite(text: str) -> str:
    """Return a page's text with every marked table and figure as its record has it."""

    def remake(match: re.Match[str]) -> str:
        start, name, _, end = match.groups()
        if name not in TABLES:
            raise ValueError(f"no table {name!r} in benchmarks/documented_figures.py.")
        return start + TABLES[name]() + end

    def refigure(match: re.Match[str]) -> str:
        number, rest, reference = match.groups()
        digits = len(number.partition(".")[2])
        sign = "+" if number.startswith("+") else ""
        return f"{look_up(reference):{sign}{',' if ',' in number else ''}.{digits}f}{rest}"

    return FIGURE.sub(refigure, TABLE.sub(remake, text))


def main() -> None:
    """Name the lines that differ from their records, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write what differs")
    given = parser.parse_args()
    differing = 0
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = rewrite(old)
        if new == old:
            continue
        differing += 1
        name = str(page.relative_to(ROOT))
        print(
            "\n".join(unified_diff(old.splitlines(), new.splitlines(), name, name, "", "", 0, ""))
        )
        if given.write:
            page.write_text(new, encoding="utf-8")
    if differing and not given.write:
        sys.exit(f"{differing} pages differ from their records; --write writes them.")


if __name__ == "__main__":
    exit_on_error(main)
