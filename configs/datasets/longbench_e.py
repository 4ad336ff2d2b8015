"""`--datasets longbench_e`: the 13 tasks of LongBench-E, scored by length."""

from mmengine.config import read_base

with read_base():
    from ..helpers.longbench_sets import longbench_e_all as longbench_datasets
