"""`--datasets lveval_embedded`: a few samples of LV-Eval that come as code."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

lveval_embedded_datasets = __list_data_sets("lveval", data="embedded")
