"""`--datasets needlebench_v2`: NeedleBench v2's three tasks, at 4k to 128k tokens."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

needlebench_v2_datasets = __list_data_sets("needlebench_v2")
