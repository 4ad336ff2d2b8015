"""Plans runs of coreference."""

from opencompass_llada.benchmarks.generated.plan import make_data_sets, make_plan

DATA_SETS = make_data_sets("coreference")
PLAN = make_plan("coreference")
