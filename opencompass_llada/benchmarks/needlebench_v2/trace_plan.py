"""Plans runs of NeedleBench v2's Ancestral Trace Challenge."""

from __future__ import annotations

from typing import Any

from opencompass_llada.benchmarks.needlebench_v2.facts import REPEATS_TEXT, TRACE
from opencompass_llada.benchmarks.published.plan import plan_suite
from opencompass_llada.benchmarks.published.suite import EMBEDDED
from opencompass_llada.runs.settings import Settings, number


def _add_repeats(values: Settings, task: str, length: int | None) -> dict[str, Any]:
    repeats = values["repeats"] or (1 if values["data"] == EMBEDDED else None)
    return {"repeats": repeats} if repeats else {}


PLAN, DATA_SETS = plan_suite(
    TRACE,
    settings={"repeats": number(REPEATS_TEXT)},
    extra=_add_repeats,
)
