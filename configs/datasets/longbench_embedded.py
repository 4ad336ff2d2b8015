"""`--datasets longbench_embedded`: the sample set that comes with the package."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

longbench_embedded_datasets = __list_data_sets("longbench", data="embedded")
