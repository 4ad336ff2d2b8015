"""Plans runs of BABILong."""

from opencompass_llada.benchmarks.babilong.facts import SUITE
from opencompass_llada.benchmarks.published.plan import plan_suite

PLAN, DATA_SETS = plan_suite(SUITE)
