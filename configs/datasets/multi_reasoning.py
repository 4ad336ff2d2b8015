"""`--datasets multi_reasoning`: an answer that follows from two needles."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

multi_reasoning_datasets = __list_data_sets("needlebench_multi", task="reasoning")
