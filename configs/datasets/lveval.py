"""`--datasets lveval`: LV-Eval's eleven tasks, at 16k to 256k words."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

lveval_datasets = __list_data_sets("lveval")
