"""`--datasets longbench_e`: the 13 tasks of LongBench-E, scored by length."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

longbench_e_datasets = __list_data_sets("longbench", benchmark="longbench_e")
