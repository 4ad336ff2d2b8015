"""Plans runs of NeedleBench v2's three tasks of a haystack, of any length."""

from __future__ import annotations

from typing import Any

from opencompass_llada.benchmarks.needlebench_v2.facts import REPEATS_TEXT, SUITE
from opencompass_llada.benchmarks.published.plan import plan_suite
from opencompass_llada.benchmarks.published.suite import EMBEDDED
from opencompass_llada.runs.settings import Settings, number, numbers

#: Of embedded samples: two depths, one sample each.
EMBEDDED_DEPTHS = (0, 50)


def _add_place(values: Settings, task: str, length: int | None) -> dict[str, Any]:
    """Return depths and repeats where they are not the published ones, and the room of a prompt."""
    place: dict[str, Any] = {}
    if values["data"] == EMBEDDED:
        place = {"depths": list(EMBEDDED_DEPTHS), "repeats": 1, "length_buffer": "fit"}
    if values["depths"]:
        place["depths"] = values["depths"]
    if values["repeats"]:
        place["repeats"] = values["repeats"]
    return place


PLAN, DATA_SETS = plan_suite(
    SUITE,
    settings={
        "depths": numbers("percent, separated by commas; default every 10", lowest=0),
        "repeats": number(REPEATS_TEXT),
    },
    extra=_add_place,
)
