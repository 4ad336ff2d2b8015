"""`--datasets longbench_v2`: LongBench v2, multiple choice."""

from mmengine.config import read_base

with read_base():
    from ..helpers.longbench_sets import longbench_v2_all as longbench_datasets
