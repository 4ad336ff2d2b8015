"""`--datasets babilong`: BABILong's ten tasks, at 1k to 128k tokens."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

babilong_datasets = __list_data_sets("babilong")
