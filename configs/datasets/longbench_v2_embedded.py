"""`--datasets longbench_v2_embedded`: sample questions in LongBench v2's format."""

from mmengine.config import read_base

with read_base():
    from ..helpers.longbench_sets import longbench_v2_embedded as longbench_datasets
