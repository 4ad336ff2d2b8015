"""Multiple choice by likelihood: whole texts (OpenCompass's PPLInferencer) against options alone.

    python benchmarks/option_scoring.py                 # tiny-llada and tiny-ar, minutes of a core
    python benchmarks/option_scoring.py --questions 4   # a quick look

Each question's text holds four facts of one kind; one of them is asked for, and the four values are
the options. Draws and seeds vary; an autoregressive model's scores are exact. Prints a table and
writes one record.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recording import ROOT, describe_run, write_record

from opencompass_llada.likelihood import TextScorer
from opencompass_llada.synthetic.grammar import FAMILIES, Needle, held_out, make_needle, paragraph
from opencompass_llada.wrapper import LLaDACausalLM

DRAWS = (8, 32)
SEEDS = (0, 1)
NUM_OPTIONS = 4


def make_question(number: int, num_paragraphs: int) -> tuple[list[str], int]:
    """Return the texts of a question with each of its options, and which one is right.

    Args:
        number: Same number, same question.
        num_paragraphs: Paragraphs of three sentences around the facts.
    """
    rng = random.Random(f"options-{number}")
    family = sorted(FAMILIES)[number % len(FAMILIES)]
    needles: list[Needle] = []
    while len(needles) < NUM_OPTIONS:
        needle = make_needle(rng, family)
        values, keys = {n.value for n in needles}, {n.key for n in needles}
        if held_out(needle) and needle.value not in values and needle.key not in keys:
            needles.append(needle)
    texts = [paragraph(rng, 3) for _ in range(num_paragraphs)]
    for needle in needles:
        texts[rng.randrange(num_paragraphs)] += " " + needle.fact
    right = rng.randrange(NUM_OPTIONS)
    context = "\n".join(texts) + "\n" + needles[right].answer_prefix
    return [f"{context} {needle.value}." for needle in needles], right


def choose(scorer: TextScorer, texts: Sequence[str], whole: bool) -> tuple[int, int]:
    """Return the option chosen and the forward passes that it took."""
    if whole:
        estimates = [scorer.score_text(text) for text in texts]
        values = [estimate.nll_per_token for estimate in estimates]
    else:
        estimates = scorer.score_options(texts)
        values = [estimate.nll for estimate in estimates]
    return values.index(min(values)), sum(e.num_forward_passes for e in estimates)


def measure(
    scorer: TextScorer, questions: Sequence[tuple[list[str], int]], whole: bool
) -> dict[str, float]:
    """Return accuracy in percent, forward passes and seconds a question."""
    start = time.perf_counter()
    chosen = [(choose(scorer, texts, whole), right) for texts, right in questions]
    return {
        "accuracy": 100 * sum(option == right for (option, _), right in chosen) / len(chosen),
        "passes": sum(passes for (_, passes), _ in chosen) / len(chosen),
        "seconds": (time.perf_counter() - start) / len(chosen),
    }


def rows_of(name: str, questions: Sequence[tuple[list[str], int]]) -> list[dict[str, Any]]:
    """Measure one shipped model in every way."""
    model = LLaDACausalLM(f"asset:{name}", dtype="float32", device="cpu")
    assert model.scorer is not None, "the weights are loaded"
    lengths = [model.scorer.count_tokens(texts[0]) for texts, _ in questions]
    settings = [(draws, SEEDS) for draws in DRAWS] if name == "tiny-llada" else [(None, (0,))]
    rows = []
    for whole in (True, False):
        for draws, seeds in settings:
            runs = []
            for seed in seeds:
                given = {} if draws is None else {"num_draws": draws, "seed": seed}
                runs.append(measure(model.scorer.with_options(given), questions, whole))
            rows.append(
                {
                    "model": name,
                    "scored": "whole texts" if whole else "options alone",
                    "draws": draws,
                    "accuracy_by_seed": [run["accuracy"] for run in runs],
                    "accuracy": statistics.mean(run["accuracy"] for run in runs),
                    "passes_per_question": runs[0]["passes"],
                    "seconds_per_question": statistics.mean(run["seconds"] for run in runs),
                    "mean_tokens_of_a_text": statistics.mean(lengths),
                }
            )
    return rows


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--paragraphs", type=int, default=2)
    default = ROOT / "benchmarks/records/option_scoring.json"
    parser.add_argument("--record", type=Path, default=default)
    arguments = parser.parse_args()
    questions = [make_question(n, arguments.paragraphs) for n in range(arguments.questions)]
    rows = [row for name in ("tiny-llada", "tiny-ar") for row in rows_of(name, questions)]
    print("| model | scored | draws | right, by seed | forward passes a question |")
    print("|---|---|---|---|---|")
    for row in rows:
        right = ", ".join(f"{value:.0f} %" for value in row["accuracy_by_seed"])
        draws = row["draws"] or "exact"
        passes = row["passes_per_question"]
        print(f"| {row['model']} | {row['scored']} | {draws} | {right} | {passes:.0f} |")
    record = {**describe_run(), "questions": len(questions), "rows": rows}
    write_record(arguments.record, record)


if __name__ == "__main__":
    main()
