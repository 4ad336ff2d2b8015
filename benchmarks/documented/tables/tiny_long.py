"""Tables of the runs that led to tiny-llada-long: their needles, depths and perplexity."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from documented.markdown import make
from documented.records import look_up, read_record
from documented.registry import table

LENGTHS = ("512", "2048", "8192", "16384")


def percent(block: Mapping[str, Any], lengths: Sequence[str] = LENGTHS) -> list[str]:
    """Return percent of needles found at each length, over depths; ``-`` where not measured."""
    if "hits" not in block:  # means and lowest depths that a log kept
        return [f"{block[n][0]}" for n in lengths]
    scale = 100 / block["samples_a_cell"]
    means = {n: scale * statistics.fmean(found.values()) for n, found in block["hits"].items()}
    return [f"{means[n]:.1f}" if n in means else "-" for n in lengths]


@table("scaled")
def scaled() -> str:
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
                rows.append([run, str(block["samples_a_cell"]), label, *percent(block),
                             f"{deepest:.1f}"])  # fmt: skip
    return make(["checkpoint", "samples", "scaling", "512", "2,048", "8,192", "16,384",
                 "of it depth 0"], rows)  # fmt: skip


@table("candidates")
def candidates() -> str:
    """Return needles and perplexity of the runs of tiny-llada-long whose record is kept."""
    rows = []
    for run, held in list_runs().items():
        cells = []
        for kinds in (("needle_embedded", "needle_grid"), ("needle_needlebench", "needlebench")):
            block = next((held[kind] for kind in kinds if kind in held), None)
            cells.append(" / ".join(percent(block)) if block else "")
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


def list_runs() -> dict[str, Mapping[str, Any]]:
    """Return what the records hold of each run, by its number in the docs."""
    others, shipped = read_record("tiny_long_candidates.json"), read_record("tiny_llada_long.json")
    first = others["tiny_long_first"]
    finishes = {
        f"4, {name.replace('learning_', '')}": held
        for name, held in others["finishes_of_run_2"].items()
        if name != "what"
    }
    return {
        "2": {"perplexity_generated": others["run_3"]["perplexity_generated_shipped"]},
        "3": others["run_3"],
        **finishes,
        "5": {**first, **first["means_from_the_log"]},
        "6": others["tiny_long_second"],
        "7": others["tiny_long_third"],
        **{str(n): others[f"run_{n}"] for n in (8, 9, 10, 11, 12)},
        "**13, shipped**": shipped,
        "14": others["run_14"],
    }
