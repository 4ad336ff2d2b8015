"""Plans runs of MRCR v2."""

from opencompass_llada.benchmarks.mrcr.facts import SUITE
from opencompass_llada.benchmarks.published.plan import plan_suite

PLAN, DATA_SETS = plan_suite(SUITE)
