"""Compares many settings of a model at once: score against time, and which settings none beats.

All settings are models of one run, one after another in one process, so that their seconds can be
compared. Scores are of the same samples; differences are paired. Infers and scores nothing itself.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from opencompass_llada.files import write_text
from opencompass_llada.report.drawing import label_decades, make_panels, save_figure
from opencompass_llada.report.statistics import clustered_interval
from opencompass_llada.runs import fidelity
from opencompass_llada.runs import recorded_files as recorded

logger = logging.getLogger(__name__)

_PICTURE = ".png"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")


def run_sweep(given: argparse.Namespace) -> int:
    """Run the settings of a command line, print the table, draw; 2 for options that do not fit."""
    try:
        if given.runs or given.first or given.second:
            raise ValueError("--sweep has all settings: leave out --runs, --first and --second")
        fidelity.check_record(given.record)
        if given.record and given.record.suffix == _PICTURE:
            raise ValueError(
                f"--record {given.record} is the picture's name; give the record another, such as "
                f"{given.record.with_suffix('.json')}, and the picture is written beside it"
            )
        settings = parse_settings(given.sweep)
        models, datasets = fidelity.prepare(given, list(settings.values()))
        base = recorded.model_name(models[0])
        names = {name: f"{base}-{name}" for name in settings}
        named = [
            {**model, "abbr": abbr} for model, abbr in zip(models, names.values(), strict=True)
        ]
        run = fidelity.start_run(named, datasets, given.work_dir)
        found = compare_settings(run, names, given.datasets)
    except ValueError as error:
        sys.stderr.write(f"opencompass-llada fidelity: {error}\n")
        return 2
    sys.stdout.write(write_frontier(found))
    record = given.record or run / "frontier.json"
    content = {**fidelity.describe_making(), "settings": settings,
               "options": dict(zip(settings, map(fidelity.list_options, models), strict=True)),
               "run": run, "model": base, "limit": given.limit,
               "results": found.to_dict("index")}  # fmt: skip
    write_text(record, json.dumps(content, indent=1, default=str) + "\n")
    picture = record.with_suffix(_PICTURE)
    draw_frontier(found, picture)
    logger.info("Wrote %s and %s", record, picture)
    return 0


def parse_settings(given: Sequence[Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Read named settings, the first of which is compared with; two at least."""
    settings: dict[str, dict[str, Any]] = {}
    for name, *words in given:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"--sweep {name!r} must begin with a name of a-z, 0-9, '.' and '-', such as "
                "--sweep cached cache=prompt"
            )
        if name in settings:
            raise ValueError(f"--sweep {name} is there twice; give each setting its own name")
        settings[name] = fidelity.parse_setting(words)
    if len(settings) < 2:
        raise ValueError(
            "--sweep compares several settings: give it at least twice, such as --sweep exact "
            "--sweep cached cache=prompt"
        )
    return settings


def compare_settings(
    run: Path, models: Mapping[str, str], datasets: Sequence[str] = ("*",)
) -> pd.DataFrame:
    """Compare the models of a run, by the names of their settings, with the first of them.

    Returns a row a setting: numbers of questions and independent units, score and its 95 %
    interval, difference from the first and its paired interval, points; agreement of answers,
    passes and seconds a sample; ``undominated``: no other setting is at least as good and as fast,
    and better or faster. Numbers are None where they are not recorded.
    """
    first = next(iter(models.values()))
    rows = {}
    for name, model in models.items():
        pairs = fidelity.pair_runs([run, run], models=(first, model), datasets=datasets)
        one, other = (
            pd.concat(side, ignore_index=True) for side in zip(*pairs.values(), strict=True)
        )
        figures = fidelity.compare(one, other)
        low, high = _score_interval(other)
        rows[name] = {
            "num_samples": figures["num_samples"],
            "num_units": figures["num_units"],
            "score": figures["second_score"],
            "score_low": low,
            "score_high": high,
            "difference": figures["score_difference"],
            "difference_low": figures["difference_low"],
            "difference_high": figures["difference_high"],
            "answer_agreement": figures["answer_agreement"],
            "passes": figures["second_passes"],
            "seconds": figures["second_seconds"],
        }
    found = pd.DataFrame.from_dict(rows, orient="index")
    return found.assign(undominated=mark_undominated(found["score"], found["seconds"]))


def _score_interval(answers: pd.DataFrame) -> tuple[float | None, float | None]:
    """Return the interval of a mean score, over units; None where samples have no own score."""
    alone = answers[~answers["question"].duplicated()]
    if not alone["is_own_score"].all() or not alone["score"].between(0, 100).all():
        return None, None
    units = alone.groupby("unit")["score"].agg(["mean", "size"])
    low, high = clustered_interval(list(units["mean"]), [float(n) for n in units["size"]])
    return low, high


def mark_undominated(scores: pd.Series, seconds: pd.Series) -> list[bool]:
    """Return which settings no other one beats: at least as good and as fast, and one of both more.

    By the means alone; settings whose scores are within their intervals may change places. A
    setting without a score or seconds is not marked and beats none.
    """
    pairs = list(zip(scores, seconds, strict=True))
    known = [pair for pair in pairs if all(map(pd.notna, pair))]

    def is_beaten(score: float, time: float) -> bool:
        return any(
            other >= score and own <= time and (other, -own) != (score, -time)
            for other, own in known
        )

    return [pair in known and not is_beaten(*pair) for pair in pairs]


def write_frontier(found: pd.DataFrame) -> str:
    """Return the table of a sweep as text."""
    shown = pd.DataFrame(
        {
            "setting": found.index,
            "score (95 %)": _spans(found, "score", ".1f"),
            "difference (95 %)": _spans(found, "difference", "+.1f"),
            "answers": [_form(value, ".0%") for value in found["answer_agreement"]],
            "passes": [_form(value, ".1f") for value in found["passes"]],
            "seconds": [_form(value, ".3f") for value in found["seconds"]],
            "": ["undominated" if own else "" for own in found["undominated"]],
        }
    )
    first = found.iloc[0]
    best = ", ".join(found.index[found["undominated"]]) or "none, since no seconds were recorded"
    return (
        f"{shown.to_string(index=False)}\n"
        f"{first['num_samples']} different questions, {first['num_units']} independent units; "
        f"answers: share with the text of {found.index[0]}'s; passes and seconds are of a sample.\n"
        f"No other setting is as good and as fast (by the means): {best}.\n"
    )


def _form(value: Any, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)


def _spans(found: pd.DataFrame, name: str, form: str) -> list[str]:
    columns = (found[f"{name}{end}"] for end in ("", "_low", "_high"))
    return [
        f"{_form(value, form)} ({_form(low, form)} to {_form(high, form)})"
        for value, low, high in zip(*columns, strict=True)
    ]


def draw_frontier(found: pd.DataFrame, path: Path) -> None:
    """Draw score against seconds a sample; a line joins the settings that none beats."""
    timed = found[found["seconds"].notna()].sort_values("seconds")
    figure, (axes,) = make_panels(1, 1, (6.4, 4.0))
    heights = itertools.cycle((5, -12, 17, -24))  # names of points that are near each other
    for name, row in timed.iterrows():
        colour = "#0072b2" if row["undominated"] else "#999999"
        low, high = row["score_low"], row["score_high"]
        if pd.notna(low):
            axes.plot([row["seconds"]] * 2, [low, high], color=colour, linewidth=1, alpha=0.6)
        axes.plot(row["seconds"], row["score"], marker="o", color=colour)
        axes.annotate(name, (row["seconds"], row["score"]), textcoords="offset points",
                      xytext=(5, next(heights)), fontsize=8, color=colour)  # fmt: skip
    best = timed[timed["undominated"]]
    axes.plot(best["seconds"], best["score"], color="#0072b2", linewidth=1)
    axes.set_xscale("log")
    if len(timed):
        span = timed["seconds"].max() / timed["seconds"].min()
        label_decades(axes.xaxis, span, "g", (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0))
        axes.minorticks_off()
    axes.set_xlabel("seconds a sample")
    axes.set_ylabel("score, %, with 95 % interval")
    axes.margins(x=0.15, y=0.15)
    axes.grid(visible=True, alpha=0.3)
    save_figure(figure, path)
