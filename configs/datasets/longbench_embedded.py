"""`--datasets longbench_embedded`: the sample set that comes with the package."""

from mmengine.config import read_base

with read_base():
    from ..helpers.longbench_sets import longbench_embedded as longbench_datasets
