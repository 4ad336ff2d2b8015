"""`--datasets longbench`: the 21 tasks of LongBench."""

from mmengine.config import read_base

with read_base():
    from ..helpers.longbench_sets import longbench_all as longbench_datasets
