"""Plans runs of InfiniteBench: one data set a task."""

from __future__ import annotations

from opencompass_llada.benchmarks.infinitebench.facts import SUITE
from opencompass_llada.benchmarks.published.plan import plan_suite

PLAN, DATA_SETS = plan_suite(SUITE)
