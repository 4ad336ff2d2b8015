"""Plans the two papers' own evaluations: what their configs run, as rows of models and settings.

Read from OpenMOSS/LongLLaDA, llada/llada_wrapper.py and eval/eval_llada_{niah,ruler,long}.py, and
Relaxed-System-Lab/UltraLLaDA, eval/opencompass-0.4.2/opencompass/eval/. LLADA_* variables choose
among a paper's models and scalings and override its other settings; LLADA_DEMO=1 runs the same
shape with tiny models on embedded data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opencompass_llada.benchmarks.benchmark import Group
from opencompass_llada.benchmarks.needle.plan import LONGLLADA_LENGTHS, ULTRALLADA_LENGTHS
from opencompass_llada.benchmarks.ruler.facts import LONGLLADA_GROUPS, ULTRALLADA_GROUPS
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs.model_configs import ModelTable
from opencompass_llada.runs.model_table import KNOWN_MODELS, ULTRALLADA_GENERATION
from opencompass_llada.runs.planning import Run, find_plan, plan_run
from opencompass_llada.runs.settings import is_demo, list_variable

#: What both repositories pass to every model.
SEED = 2025
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a paper runs at one benchmark."""

    models: Sequence[str]
    """Keys of `KNOWN_MODELS`."""
    lambdas: Mapping[str, int]
    """How many of a family's ntk scalings are run besides none, the smallest first."""
    settings: Mapping[str, Any]
    """Of the benchmark's run."""
    steps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Family -> other numbers of steps that are run, too, unscaled."""
    num_steps: int | None = None
    """The usual number, where it is not the models' own."""
    add_bos: tuple[str, ...] = ()
    """Families whose prompts the repository's wrapper begins with the tokenizer's BOS: Dream's
    where nothing is cut in the middle."""
    groups: tuple[Group, ...] = ()
    """The averages of its table, where they are not the benchmark's."""


_LONGLLADA_MODELS = (
    *("llama_3_8b_base", "llama_3_8b_instruct", "llada_8b_base", "llada_8b_instruct"),
    *("llada_1_5", "dream_v0_7b_base", "dream_v0_7b_instruct"),
)
# The repository's model list holds the base model; UltraLLaDA stands there as a comment.
_ULTRALLADA_MODELS = ("llada_8b_base", "ultrallada")
_NIAH = dict(data="needlebench", language="en", prompt="base", tokenizer="gpt-4", repeats=10,
             needle_draws="published")  # fmt: skip
_RULER = dict(data="ruler", prompt="base", tokenizer="gpt-4", samples=100, fwe="published")
# OpenCompass's prompts and answer lengths, the latter rounded up to a whole block.
_LONGBENCH = dict(
    data="longbench", benchmark="longbench", wording="opencompass", output_lengths="repositories"
)
PAPERS: dict[str, dict[str, Evaluation]] = {
    "longllada": {
        "niah": Evaluation(
            models=_LONGLLADA_MODELS,
            lambdas={"autoregressive": 2, "llada": 4, "dream": 1},
            steps={"llada": (1, 2, 4, 8, 16), "dream": (1, 8, 16)},
            add_bos=("dream",),
            settings={**_NIAH, "lengths": list(LONGLLADA_LENGTHS)},
        ),
        "ruler": Evaluation(
            models=_LONGLLADA_MODELS,
            lambdas={"autoregressive": 2, "llada": 3, "dream": 1},
            add_bos=("dream",),
            settings={**_RULER, "lengths": [4096, 8192, 16384]},
            groups=LONGLLADA_GROUPS,
        ),
        "longbench": Evaluation(
            models=_LONGLLADA_MODELS,
            lambdas={"autoregressive": 0, "llada": 1, "dream": 1},
            settings={**_LONGBENCH, "lengths": [3500, 7500]},
        ),
    },
    "ultrallada": {
        "niah": Evaluation(
            models=_ULTRALLADA_MODELS,
            lambdas={"llada": 0},
            num_steps=ULTRALLADA_GENERATION["niah"]["num_steps"],
            settings={**_NIAH, "lengths": list(ULTRALLADA_LENGTHS)},
        ),
        "ruler": Evaluation(
            models=_ULTRALLADA_MODELS,
            lambdas={"llada": 0},
            # The repository's configs are OpenCompass's with their answer turn. They run 16K and
            # 32K; the paper's Table 3 has four lengths.
            settings={**_RULER, "prompt": "opencompass", "lengths": [4096, 8192, 16384, 32768]},
            groups=ULTRALLADA_GROUPS,
        ),
        "longbench": Evaluation(
            models=_ULTRALLADA_MODELS,
            lambdas={"llada": 0},
            settings={**_LONGBENCH, "lengths": [16000]},
        ),
    },
}


def plan_paper(paper: str, benchmark: str) -> Run:
    """Work out a paper's run of one benchmark, a key of `PAPERS` and one below it."""
    evaluation = PAPERS[paper][benchmark]
    rows, settings = list_rows(evaluation, benchmark), dict(evaluation.settings)
    if is_demo():
        rows, settings = demo_rows(rows), dict(find_plan(benchmark).demo)
        if name := {"ruler": "prompt", "niah": "needle_draws"}.get(benchmark):
            settings[name] = evaluation.settings[name]
    rows = choose_rows(rows)
    settings["models"] = list(dict.fromkeys(row["model"] for row in rows))
    settings["scaling"] = list(dict.fromkeys(row["scaling"] for row in rows))
    run = plan_run(benchmark, settings, rows=rows)
    if evaluation.groups:
        run.summarizer["groups"] = [group.to_config() for group in evaluation.groups]
    return run


def list_rows(evaluation: Evaluation, benchmark: str) -> list[Row]:
    """List a paper's models, as `ModelTable.list_configs` takes them."""
    rows: list[Row] = []
    for name in evaluation.models:
        facts = KNOWN_MODELS[name]
        lambdas = [text for text in facts.scalings if text.startswith("ntk:")]
        common = {"model": name, "dtype": facts.paper_dtype, "seed": SEED}
        if facts.family in evaluation.add_bos:
            common["add_bos"] = True
        given = evaluation.num_steps
        is_own = given in (None, facts.generation[benchmark].get("num_steps"))
        steps = {} if is_own else {"num_steps": given}
        scalings = ["none", *lambdas[: evaluation.lambdas[facts.family]]]
        rows += [{**common, "scaling": text, **steps} for text in scalings]
        others = evaluation.steps.get(facts.family, ())
        rows += [{**common, "scaling": "none", "num_steps": count} for count in others]
    return rows


def demo_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the shape of a paper's rows: shipped models, without scaling and with ntk."""
    shipped = ModelTable().models
    pairs = {}
    for row in rows:
        is_ar = KNOWN_MODELS[row["model"]].is_autoregressive
        name, method = "tiny_ar" if is_ar else "tiny_llada", row["scaling"].split(":")[0]
        if name in shipped:
            pairs[name, method] = {"model": name, "scaling": method}
    return list(pairs.values())


def choose_rows(rows: Sequence[Row]) -> list[Row]:
    """Keep what LLADA_MODELS and LLADA_SCALING name; ``NAME=PATH`` puts a checkpoint's path in."""
    specs = {spec: spec.partition("=")[0].strip() for spec in list_variable("MODELS")}
    scalings, chosen = list_variable("SCALING"), list(rows)
    if specs:
        models = {row["model"] for row in rows}
        reject_unknown("model of this evaluation", specs.values(), models)
        chosen = [
            {**row, "model": spec}
            for spec, name in specs.items()
            for row in rows
            if row["model"] == name
        ]
    if scalings:
        reject_unknown("scaling of this evaluation", scalings, {row["scaling"] for row in chosen})
        chosen = [row for row in chosen if row["scaling"] in scalings]
    return chosen
