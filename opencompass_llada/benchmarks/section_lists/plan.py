"""Plans runs of section lists."""

from opencompass_llada.benchmarks.generated.plan import make_data_sets, make_plan

DATA_SETS = make_data_sets("section_lists")
PLAN = make_plan("section_lists")
