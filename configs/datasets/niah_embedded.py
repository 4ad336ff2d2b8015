"""`--datasets niah_embedded`: one needle in the texts that come with the package."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

niah_embedded_datasets = __list_data_sets("niah", data="embedded")
