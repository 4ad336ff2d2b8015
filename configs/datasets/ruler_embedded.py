"""`--datasets ruler_embedded`: RULER's tasks that need no data, at tiny-llada's lengths."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

ruler_embedded_datasets = __list_data_sets("ruler", data="embedded")
