"""Plans runs of changing state."""

from opencompass_llada.benchmarks.generated.plan import make_data_sets, make_plan

DATA_SETS = make_data_sets("changing_state")
PLAN = make_plan("changing_state")
