"""`--datasets needlebench_atc`: NeedleBench v2's Ancestral Trace Challenge, 2 to 512 needles."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

needlebench_atc_datasets = __list_data_sets("needlebench_atc")
