"""`--datasets leval_embedded`: a few samples of L-Eval that come as code."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

leval_embedded_datasets = __list_data_sets("leval", data="embedded")
