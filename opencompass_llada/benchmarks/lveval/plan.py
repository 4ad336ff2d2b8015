"""Plans runs of LV-Eval: one data set a task and length."""

from __future__ import annotations

from opencompass_llada.benchmarks.lveval.facts import SUITE
from opencompass_llada.benchmarks.published.plan import plan_suite

PLAN, DATA_SETS = plan_suite(SUITE)
