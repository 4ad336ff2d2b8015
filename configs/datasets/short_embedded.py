"""`--datasets short_embedded`: the sample set of the short-context tasks, for tiny models."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

short_embedded_datasets = __list_data_sets("short", data="embedded")
