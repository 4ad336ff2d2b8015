"""Plans runs of graph walks."""

from opencompass_llada.benchmarks.generated.plan import make_data_sets, make_plan

DATA_SETS = make_data_sets("graph_walks")
PLAN = make_plan("graph_walks")
