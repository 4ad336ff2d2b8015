"""Plans runs of linked needles."""

from opencompass_llada.benchmarks.generated.plan import make_data_sets, make_plan

DATA_SETS = make_data_sets("linked_needles")
PLAN = make_plan("linked_needles")
