"""`--datasets ruler`: RULER's 13 tasks, at LongLLaDA's lengths."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

ruler_datasets = __list_data_sets("ruler")
