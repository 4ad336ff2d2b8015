"""Plans one run of several published suites, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencompass_llada.benchmarks.published.suite import list_suites
from opencompass_llada.runs import reductions
from opencompass_llada.runs.evaluation import plan_leaderboard
from opencompass_llada.runs.planning import Run, find_plan
from opencompass_llada.runs.settings import (
    BATCH_SIZE,
    LEADING,
    READ_BY,
    TRAILING,
    WORKERS,
    Setting,
    only_variables,
    read_settings,
    text,
    texts,
    token_lengths,
)

#: Run beside them: a suite with a plan of its own.
OTHERS = ("longbench_v2",)
#: What `plan_leaderboard` reads for all benchmarks; all other settings are options of each.
_OF_ALL = ("models", "scaling", "lengths", "data", "prompt", "workers", "gpus", "dtype",
           *READ_BY, *reductions.SETTINGS)  # fmt: skip


def plan_published_suites(settings: Mapping[str, Any]) -> Run:
    """Work out a run of the suites that ``suites`` (LLADA_SUITES) names, by default of all.

    Settings that a suite does not know are for the others. LLADA_DEMO=1 runs tiny-llada on all
    suites' embedded samples.

    Raises:
        ValueError: For settings that do not fit, or data that is not there.
    """
    names = [*list_suites(), *OTHERS]
    demo = {"models": ["tiny_llada"], "scaling": ["none"], "data": "embedded"}
    values = read_settings(settings, list_settings(), demo=demo)
    values.default("suites", names)
    values.default("data", "published")
    given = {name: value for name, value in values.values.items() if value is not None}
    options = {
        name: {key: given[key] for key in find_plan(name).settings if key in given}
        for name in given["suites"]
    }
    of_all = {name: given[name] for name in _OF_ALL if name in given}
    with only_variables({}):  # all are read
        return plan_leaderboard({**of_all, "benchmarks": given["suites"]}, options)


def list_settings() -> dict[str, Setting]:
    """Return the settings of a run: ``suites``, those of all, and those of some suite."""
    names = [*list_suites(), *OTHERS]
    of_each: dict[str, Setting] = {}
    for name in reversed(names):  # of names that several have, the suites' own texts
        of_each.update(find_plan(name).settings)
    del of_each["tasks"], of_each["benchmark"]
    return {
        **LEADING,
        "suites": texts(f"{', '.join(names)}, separated by commas; default all", *names),
        **of_each,
        "lengths": token_lengths(
            "tokens, separated by commas: those that a suite's samples were made for, or that they "
            "are fitted to where they have lengths of their own"
        ),
        "data": text("embedded or published, of every suite", "embedded", "published"),
        **BATCH_SIZE,
        **WORKERS,
        **READ_BY,
        **TRAILING,
        **reductions.SETTINGS,
    }
