"""Tables of what the shipped models score: needles, perplexity, suites, probes, options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from documented.markdown import grid, make
from documented.records import read_record
from documented.registry import table

#: Label -> conditions on the rows of a run's table.
ENTRIES = {
    "tiny-llada": "title=tiny-llada&scaling=none",
    "tiny-llada, ntk": "title=tiny-llada&scaling=ntk target_length=2048",
    "tiny-llada, diffusion_ntk": "title=tiny-llada&scaling=diffusion_ntk target_length=2048",
    "tiny-llada-long": "title=tiny-llada-long&scaling=none",
    "tiny-block": "title=tiny-block&scaling=none",
    "tiny-block, ntk": "title=tiny-block&scaling=ntk target_length=2048",
    "tiny-ar": "title=tiny-ar&scaling=none",
    "tiny-ar, ntk": "title=tiny-ar&scaling=ntk target_length=2048",
}
PROBES = (
    *("needlebench", "question", "prefix", "pairs", "copy", "strings"),
    *("ruler_niah", "ruler_vt", "ruler_fwe", "ruler_cwe"),
)
SUITES = ("changing_state", "section_lists", "linked_needles", "graph_walks", "coreference")
_SUITE_MODELS = ("tiny-llada", "tiny-llada-long", "tiny-block", "tiny-ar")
SUITE_ROWS = (
    *_SUITE_MODELS,
    *(f"{model} (last window)" for model in _SUITE_MODELS),
    *(f"{model} (no context)" for model in _SUITE_MODELS),
    *("chance", "exact solver"),
)


def print_lengths(lengths: Iterable[int]) -> list[str]:
    """Return the headings of columns by length."""
    return [f"{length:,}" for length in lengths]


@table("niah_tiny_models", "niah_tiny_models.csv", (256, 512, 1024, 2048))
@table("niah_tiny_models_published", "niah_tiny_models_published.csv",
       (256, 512, 1024, 2048, 4096))  # fmt: skip
@table("niah_tiny_models_needlebench", "niah_tiny_models_needlebench.csv", (320, 512),
       ("tiny-llada", "tiny-llada-long", "tiny-ar"),
       "percent, mean over 5 depths, 20 samples a cell")  # fmt: skip
def needles(
    record: str,
    lengths: Sequence[int],
    entries: Iterable[str] = tuple(ENTRIES),
    heading: str = "mean over 5 depths",
) -> str:
    """Return the share of needles that were found, by model, scaling and length."""
    return grid(
        [heading, *print_lengths(lengths)],
        {label: f"{record}#{ENTRIES[label]}&metric=accuracy&" for label in entries},
        [f"{{length={length}/score:.0f}}" for length in lengths],
    )


@table("ruler_tiny_models")
def ruler() -> str:
    """Return the mean of RULER's needle tasks, as the leaderboard has it."""
    lengths = (512, 1024)
    bases = {}
    for label, conditions in ENTRIES.items():  # the leaderboard's entry is title and scaling
        entry = conditions.replace("title=", "entry=").replace("&scaling=none", "")
        entry = entry.replace("&scaling=", ", ")
        bases[label] = f"leaderboard_tiny_models.csv#{entry}&benchmark=ruler&column=NIAH&"
    cells = [f"{{length={length}/score:.0f}}" for length in lengths]
    return grid(["", *print_lengths(lengths)], bases, cells)


@table("ppl_tiny_llada")
def perplexity() -> str:
    """Return perplexity and nats a token with their error, by scaling and length."""
    lengths = (256, 512, 1024, 2048, 4096)
    entries = {"none": "tiny-llada", "ntk": "tiny-llada, ntk",
               "diffusion_ntk": "tiny-llada, diffusion_ntk"}  # fmt: skip
    return grid(
        ["", *print_lengths(lengths)],
        {label: f"ppl_tiny_llada.csv#{ENTRIES[entry]}&" for label, entry in entries.items()},
        [
            f"{{length={n}/perplexity:.1f}}; {{length={n}/nll_per_token:.2f}} ± "
            f"{{length={n}/standard_error:.2f}}"
            for n in lengths
        ],
    )


@table("ppl_paired")
def paired_perplexity() -> str:
    """Return what a scaling costs in nats on the same texts, with its error."""
    name, lengths = "perplexity_paired.json", (256, 512, 1024, 2048)
    return grid(
        ["nats a token more than unscaled", *print_lengths(lengths)],
        {scaling: f"{name}#/{scaling}/difference/" for scaling in read_record(name)},
        [f"{{{n}/nats:+.3f}} ± {{{n}/standard_error:.3f}}" for n in lengths],
    )


@table("probes")
def probes() -> str:
    """Return the held-out probes at the end of pretraining."""
    return grid(
        ["held-out probe, %", *PROBES],
        {f"tiny-{name}": f"tiny_{name}_pretraining.json#/history/-1/" for name in ("llada", "ar")},
        [f"{{{probe}:.0f}}" for probe in PROBES],
    )


@table("suite_probes")
def suite_probes() -> str:
    """Return the held-out probes of the generated suites at the end of training."""
    return grid(
        ["held-out probe, %", *(suite.replace("_", " ") for suite in SUITES)],
        {name: f"{name}.json#/history/-1/"
         for name in ("tiny-llada", "tiny-ar", "tiny-block", "tiny-llada-long")},
        [f"{{suite_{suite}@512:.0f}}" for suite in SUITES],
    )  # fmt: skip


@table("suites_512", 512)
@table("suites_1024", 1024)
@table("suites_2048", 2048)
def suites(length: int) -> str:
    """Return the first level of each generated suite by model and reader, and its interval."""
    frame = read_record("suites_tiny_models.csv")
    frame = frame[frame["length"] == length]
    rows = []
    for entry in SUITE_ROWS:
        cells = []
        for suite in SUITES:
            chosen = frame[(frame["entry"] == entry) & (frame["column"] == f"{suite}_level1")]
            row = chosen.iloc[0] if len(chosen) else None
            if row is None or pd.isna(row["score"]):
                cells.append("the same" if "(last window)" in entry else "-")
            elif pd.isna(row["low"]):
                cells.append(f"{row['score']:.0f}")
            else:
                cells.append(f"{row['score']:.0f} [{row['low']:.0f}, {row['high']:.0f}]")
        rows.append([entry, *cells])
    return make(["", *(suite.replace("_", " ") for suite in SUITES)], rows)


@table("option_scoring")
def option_scoring() -> str:
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
