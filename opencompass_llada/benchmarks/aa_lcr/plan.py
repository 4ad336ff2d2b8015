"""Plans runs of AA-LCR."""

from __future__ import annotations

from typing import Any

from opencompass_llada.benchmarks import cells
from opencompass_llada.benchmarks.aa_lcr.facts import SCORED_BY, SUITE
from opencompass_llada.benchmarks.published.plan import plan_suite
from opencompass_llada.benchmarks.published.suite import EMBEDDED
from opencompass_llada.runs.settings import Settings, text


def _add_scoring(values: Settings, task: str, length: int | None) -> dict[str, Any]:
    """Return who scores the answers: the judge, but of embedded samples nobody but ourselves."""
    values.default("scored_by", "overlap" if values["data"] == EMBEDDED else "judge")
    scored_by = values["scored_by"]
    return {
        "scored_by": scored_by,
        "eval_cfg": cells.score_with(SUITE.evaluator, task=task, scored_by=scored_by),
    }


PLAN, DATA_SETS = plan_suite(
    SUITE,
    settings={
        "scored_by": text(
            "judge (the published score, by the model of OC_JUDGE_MODEL, OC_JUDGE_API_KEY and "
            "OC_JUDGE_API_BASE) or overlap (words shared with the answer; not the published score)",
            *SCORED_BY,
        )
    },
    extra=_add_scoring,
)
