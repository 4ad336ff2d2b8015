"""`--datasets longbench_v2`: LongBench v2, multiple choice."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

longbench_v2_datasets = __list_data_sets("longbench", benchmark="longbench_v2")
