"""`--datasets multi_needle_embedded`: several needles in the texts that come with the package."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

multi_needle_embedded_datasets = __list_data_sets("needlebench_multi", data="embedded")
