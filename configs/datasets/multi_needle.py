"""`--datasets multi_needle`: several needles that are all to be found."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

multi_needle_datasets = __list_data_sets("needlebench_multi")
