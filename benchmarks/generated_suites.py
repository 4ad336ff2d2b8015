"""Checks every generated suite at every level and length, and times its making.

    COMPASS_DATA_CACHE=DIR TIKTOKEN_CACHE_DIR=DIR python benchmarks/generated_suites.py

For each suite, level, length from 512 to 131,072 tokens, language and tokenizer (tiny-llada's, and
where they are, Qwen's of data/published/SDAR-8B-Chat and GPT-4's): the score of the suite's solver,
chance as stated and as guesses reach it with its standard error, the most and the fewest tokens of
prompt and answer, and those of the longest answer. Where the smallest prompt is longer than a
length, that is written instead. Then 100 samples of each suite at the longest length are made and
read again from disk. Writes benchmarks/records/generated_suites.json; it fails if a solver is
wrong, a prompt too long, an answer longer than its room, chance outside the interval of the guesses
(Student's, by samples, at a risk of 1e-5), or a reading from disk above five seconds.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import scipy.stats
from recording import ROOT, describe_run, exit_on_error, write_record

LENGTHS = tuple(512 * 2**power for power in range(9))
LANGUAGES = ("en", "zh")
#: Guesses at a question of a cell.
NUM_GUESSES = 40
#: Of an interval of guesses that misses what it should hold; there are more than a thousand.
RISK = 1e-5
MOST_SECONDS = 5.0


def find_tokenizers() -> dict[str, str]:
    """Return the tokenizers that are on this machine, by what they are called."""
    from opencompass_llada.benchmarks.counting import tiktoken_state

    found = {"tiny": "asset:tiny-llada"}
    qwen = Path(os.environ.get("COMPASS_DATA_CACHE", "")) / "data/published/SDAR-8B-Chat"
    if qwen.is_dir():
        found["qwen"] = str(qwen)
    if tiktoken_state() == "present":
        found["gpt-4"] = "gpt-4"
    return found


def check_cell(options: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Return what a cell's samples are like."""
    from opencompass_llada.benchmarks.generated.samples import SuiteSpec, build_samples
    from opencompass_llada.benchmarks.generated.task import Vocabulary

    spec = SuiteSpec(**options)
    try:
        samples = build_samples(spec, tokenizer)
    except ValueError as error:
        return {"too_small": str(error)}
    task, words = spec.suite, Vocabulary(language=spec.language)
    rng = random.Random(f"guess {options}")
    solved, guessed, totals, answers = [], [], [], []  # guessed: the mean of each sample
    for sample in samples:
        answer = task.solve(sample.prompt)
        solved.append(task.score(answer, sample.answers))
        answers.append(len(tokenizer.encode(f"{answer}.")))
        totals.append(tokenizer.count(sample.prompt) + spec.reserve)
        guesses = [task.guess(rng, spec.level, sample.question, words) for _ in range(NUM_GUESSES)]
        guessed.append(statistics.mean(task.score(guess, sample.answers) for guess in guesses))
    chance = statistics.mean(sample.chance for sample in samples)
    # Few samples may be alike; then hits at random vary as those of independent answers do.
    least = (chance * (100 - chance) / (len(samples) * NUM_GUESSES)) ** 0.5
    return {
        "samples": len(samples),
        "solver": statistics.mean(solved),
        "chance": chance,
        "guesses": statistics.mean(guessed),
        "error": max(least, statistics.stdev(guessed) / len(guessed) ** 0.5),
        "most_tokens": max(totals),
        "fewest_tokens": min(totals),
        "longest_answer": max(answers),
        "room": spec.reserve,
    }


def find_faults(cell: dict[str, Any]) -> Iterator[str]:
    """Yield what of a cell is not as promised."""
    found = cell["found"]
    if "too_small" in found:
        if cell["length"] >= 2048:
            yield "the smallest prompt is longer than 2,048 tokens"
        return
    if found["solver"] != 100:
        yield f"the solver scores {found['solver']}"
    if found["most_tokens"] > cell["length"]:
        yield f"{found['most_tokens']} tokens"
    if found["longest_answer"] >= found["room"]:
        yield f"an answer of {found['longest_answer']} tokens in a room of {found['room']}"
    most = float(scipy.stats.t.isf(RISK / 2, found["samples"] - 1)) * found["error"]
    if abs(found["guesses"] - found["chance"]) > most:
        yield f"guesses score {found['guesses']}, chance is {found['chance']}"


def compare_chance(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each suite and level chance, what guesses score, and the difference's error.

    The error is that of the mean over cells, whose draws are their own but for the tokenizers.
    """
    fitting = [cell for cell in cells if "solver" in cell["found"]]
    frame = pd.DataFrame([{**cell, **cell["found"]} for cell in fitting])
    frame["difference"] = frame["guesses"] - frame["chance"]
    levels = frame.groupby(["benchmark", "level"])
    found = levels[["chance", "guesses", "difference"]].mean()
    found["error"] = levels["difference"].sem()
    return found.round(3).reset_index().to_dict("records")


def tabulate(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the cells as a table, which takes a quarter of the room."""
    names = list(dict.fromkeys(name for cell in cells for name in cell["found"]))
    asked = ["benchmark", "level", "length", "language", "tokenizer"]
    rows = []
    for cell in cells:
        found = [cell["found"].get(name) for name in names]
        numbers = [round(own, 2) if isinstance(own, float) else own for own in found]
        rows.append(" ".join(map(str, [*(cell[name] for name in asked), *numbers])))
    return {"columns": " ".join([*asked, *names]), "rows": rows}


def time_samples(suite: str, num_samples: int) -> dict[str, float]:
    """Return the seconds of making samples at the longest length, and of reading them again."""
    from opencompass_llada.benchmarks.generated.dataset import GeneratedDataset

    seconds: dict[str, float] = {}
    for name in ("made", "read"):
        started, cpu = time.perf_counter(), time.process_time()
        GeneratedDataset.load(
            benchmark=suite, level=2, length=LENGTHS[-1], num_samples=num_samples,
            tokenizer="asset:tiny-llada",
        )  # fmt: skip
        seconds[name] = round(time.perf_counter() - started, 2)
        seconds[f"{name}_cpu"] = round(time.process_time() - cpu, 2)
    return seconds


def main() -> None:
    """Check all cells and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=6, help="samples of each cell")
    parser.add_argument("--timed-samples", type=int, default=100)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("-o", "--output", type=Path, help="the record, instead of the usual one")
    given = parser.parse_args()

    from opencompass_llada.benchmarks.counting import load_counting_tokenizer
    from opencompass_llada.benchmarks.generated.task import LEVELS, list_suites

    record = {**describe_run(), "cells": [], "seconds": {}, "faults": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OPENCOMPASS_LLADA_CACHE"] = folder
        for name, path in find_tokenizers().items():
            tokenizer = load_counting_tokenizer(path)
            for suite in list_suites():
                for level in LEVELS:
                    for length in given.lengths:
                        for language in LANGUAGES:
                            options = {"benchmark": suite, "level": level, "length": length}
                            options |= {"language": language, "num_samples": given.samples}
                            found = check_cell({**options, "tokenizer": path}, tokenizer)
                            cell = {**options, "tokenizer": name, "found": found}
                            record["cells"].append(cell)
                            record["faults"] += [
                                f"{suite} {level} {length} {language} {name}: {fault}"
                                for fault in find_faults(cell)
                            ]
                print(name, suite, len(record["cells"]), "cells", record["faults"], flush=True)
        for suite in list_suites() if given.timed_samples else ():
            record["seconds"][suite] = seconds = time_samples(suite, given.timed_samples)
            if seconds["read"] > MOST_SECONDS:
                record["faults"].append(f"{suite}: read in {seconds['read']} s")
    record["chance_by_level"] = compare_chance(record["cells"])
    record["cells"] = tabulate(record["cells"])
    write_record(given.output or ROOT / "benchmarks/records/generated_suites.json", record)
    if record["faults"]:
        raise ValueError("not as promised:\n" + "\n".join(record["faults"]))


if __name__ == "__main__":
    exit_on_error(main)
