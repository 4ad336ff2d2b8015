"""`--datasets longbench`: the 21 tasks of LongBench."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

longbench_datasets = __list_data_sets("longbench")
