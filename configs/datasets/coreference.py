"""`--datasets coreference`: the n-th reply of near-identical requests, by level and length."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

coreference_datasets = __list_data_sets("coreference")
