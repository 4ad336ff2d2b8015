"""Compares scores of InfiniteBench, L-Eval and LV-Eval with those of the authors' own code.

    git clone https://github.com/OpenBMB/InfiniteBench; git clone https://github.com/OpenLMLab/LEval
    git clone https://github.com/infinigence/LVEval
    python benchmarks/suite_scores.py --clones .

Takes the answers of models that the first two repositories publish, and random texts for the third,
which publishes none, and scores each by the authors' functions, from the clones, and by ours. The
authors' code is run and not kept. Needs no model and no GPU. Writes one record.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import random
import re
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recording import ROOT, describe_run, exit_on_error, write_record

from opencompass_llada.benchmarks.infinitebench import scoring as infinitebench
from opencompass_llada.benchmarks.leval import facts as leval_facts
from opencompass_llada.benchmarks.leval import scoring as leval
from opencompass_llada.benchmarks.lveval import facts as lveval_facts
from opencompass_llada.benchmarks.lveval import scoring as lveval
from opencompass_llada.synthetic.grammar import paragraph

#: Suite, task, the authors' score and ours, of one answer; None where the authors' code stops.
Pair = tuple[str, str, float | None, float]
NUM_RANDOM = 6000
#: Answers, those with the same score, with another, and those at which the authors' code stops.
COUNTED = ("answers", "same", "other", "stopped")
_CHINESE = (
    "的红苹果在蓝书包里，被世人广泛推崇为现代物理学奠基人的科学家叫贝多芬。导演1998年Intel公司x86"
)


def import_from(folder: Path, *names: str) -> list[Any]:
    """Import modules of a clone."""
    import importlib

    sys.path.insert(0, str(folder))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(folder))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a published file; none of a file that is damaged or not there."""
    try:
        return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{path}: left out ({error})\n")
        return []


def attempt(function: Callable[..., float], *arguments: Any) -> float | None:
    """Return a score of the authors' code, which may stop, and which prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return float(function(*arguments))
        except Exception:  # whatever the authors' code runs into
            return None


def rouge_in_place_of_evaluate() -> types.ModuleType:
    """Return what stands for `evaluate`, which loads from the hub: the package that it wraps."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeLsum"], use_stemmer=False)

    def compute(predictions: list[str], references: list[Any], **_: Any) -> dict[str, list[float]]:
        found = [
            scorer.score_multi(gold if isinstance(gold, list) else [gold], text)["rougeLsum"]
            for text, gold in zip(predictions, references, strict=True)
        ]
        return {"rougeLsum": [one.fmeasure for one in found]}

    module = types.ModuleType("evaluate")
    module.load = lambda name: types.SimpleNamespace(compute=compute)  # type: ignore[attr-defined]
    return module


def compare_infinitebench(clone: Path) -> Iterator[Pair]:
    """Score the answers in ``results/``."""
    known = sys.modules.get("evaluate")
    sys.modules["evaluate"] = rouge_in_place_of_evaluate()
    [authors] = import_from(clone / "src", "compute_scores")
    if known is None:
        del sys.modules["evaluate"]
    else:
        sys.modules["evaluate"] = known
    for file in sorted(clone.glob("results/*/preds_*.jsonl")):
        task = file.stem.removeprefix("preds_")
        for row in read_lines(file) if task in infinitebench.METRICS else ():
            label = row["ground_truth" if "ground_truth" in row else "label"]
            text = row["prediction" if "prediction" in row else "pred"]
            golds = label if isinstance(label, list) else [label]
            golds = golds[0] if isinstance(golds[0], list) else golds
            shown = golds[0] if task == "kv_retrieval" else label
            own = infinitebench.METRICS[task](text, [str(gold) for gold in golds])
            yield "infinitebench", task, attempt(authors.get_score_one, text, shown, task, ""), own


def authors_exams(clone: Path) -> tuple[dict[str, Any], Any, Any]:
    """Return the functions of auto_eval.py, which cannot be imported, and the modules em and f1."""
    tree = ast.parse((clone / "Evaluation/auto_eval.py").read_text("utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names: dict[str, Any] = {"re": re, "args": types.SimpleNamespace(pred_file="")}
    exec(compile(ast.Module(functions, []), "auto_eval.py", "exec"), names)
    em, f1 = import_from(clone / "Evaluation", "em", "f1")
    return names, em, f1


def compare_leval(clone: Path) -> Iterator[Pair]:
    """Score the answers in ``Predictions/`` of exams and of questions with F1."""
    names, em, f1 = authors_exams(clone)
    same = ("{}", "{}")
    prepare = {  # metric -> what auto_eval.py does with answer and gold answer first
        "single_choice": ("process_output_mc", "process_gt_mc"),
        "several_choices": ("process_output_mc", "process_gt_mc"),
        "worked_number": ("process_math", "process_math"),
        "exact_match": same,
    }
    for file in sorted(clone.glob("Predictions/*_eval/*/*.pred.jsonl")):
        task = file.name.partition(".")[0]
        metric = leval_facts.TASKS[task].metric
        names["args"].pred_file = str(file)
        for row in read_lines(file):
            [key] = [name for name in row if "_pred" in name]
            text, gold = row[key], row["gt"]
            if row["evaluation"] not in ("exam", "f1"):
                continue
            if metric == "f1":
                theirs = attempt(f1.f1_score, text, gold)
            elif metric == "program_output":
                shown = names["process_output_code"](text, gold)
                theirs = attempt(em.exact_match_score, shown, names["process_gt_code"](gold))
            else:
                first, second = prepare[metric]
                pair = (text, gold) if first == "{}" else (names[first](text), names[second](gold))
                theirs = attempt(em.exact_match_score, *pair)
            yield "leval", task, theirs, leval.METRICS[metric](text, gold)


def compare_lveval(clone: Path) -> Iterator[Pair]:
    """Score random texts, of which many hold the answer or its keywords."""
    [authors] = import_from(clone, "config")
    rng = random.Random(0)

    def text(language: str) -> str:
        if language == "zh":
            return "".join(rng.choice(_CHINESE) for _ in range(rng.randrange(20)))
        return " ".join(paragraph(rng, 1).split()[: rng.randrange(12)])

    for _ in range(NUM_RANDOM):
        name, task = rng.choice(list(lveval_facts.TASKS.items()))
        answers = [text(task.language) for _ in range(rng.choice((1, 1, 2)))]
        if not any(map(str.isalnum, answers[0])):
            continue
        shown = rng.choice(
            (text(task.language), f"{answers[0]} {text(task.language)}", answers[-1])
        )
        keywords = rng.choice((None, "", answers[0][:5], answers[0], text(task.language)))
        theirs = attempt(authors.DATASET_METRIC[name], shown, answers[0], keywords)
        own = lveval.METRICS[task.metric](shown, answers, keywords or "", task.language) / 100
        yield "lveval", name, theirs, own


COMPARED = {
    "InfiniteBench": compare_infinitebench,
    "LEval": compare_leval,
    "LVEval": compare_lveval,
}


def summarize(pairs: Iterator[Pair]) -> list[dict[str, Any]]:
    """Count answers, those with the same score, and those at which the authors' code stops."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for suite, task, theirs, own in pairs:
        counts[suite, task, "answers"] += 1
        state = "stopped" if theirs is None else "same" if abs(theirs - own) < 1e-9 else "other"
        counts[suite, task, state] += 1
    tasks = dict.fromkeys((suite, task) for suite, task, _ in counts)
    return [
        {
            **{"suite": suite, "task": task},
            **{name: counts[suite, task, name] for name in COUNTED},
        }
        for suite, task in tasks
    ]


def main() -> None:
    """Compare and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clones", type=Path, required=True, help="folder of the repositories")
    default = ROOT / "benchmarks/records/suite_scores.json"
    parser.add_argument("--output", type=Path, default=default)
    arguments = parser.parse_args()
    rows = []
    for folder, compare in COMPARED.items():
        if not (arguments.clones / folder).is_dir():
            raise ValueError(f"{arguments.clones / folder} is not there; clone it (see the head).")
        rows += summarize(compare(arguments.clones / folder))
    totals = {
        suite: {name: sum(row[name] for row in rows if row["suite"] == suite) for name in COUNTED}
        for suite in dict.fromkeys(row["suite"] for row in rows)
    }
    write_record(arguments.output, {**describe_run(), "totals": totals, "rows": rows})


if __name__ == "__main__":
    exit_on_error(main)
