"""`--datasets needlebench_atc_embedded`: a few samples that come as code."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

needlebench_atc_embedded_datasets = __list_data_sets("needlebench_atc", data="embedded")
