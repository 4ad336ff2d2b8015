"""`--datasets needlebench_v2_embedded`: a few samples of NeedleBench v2 that come as code."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

needlebench_v2_embedded_datasets = __list_data_sets("needlebench_v2", data="embedded")
