"""`--datasets leval`: L-Eval's twenty tasks, as they are or fitted to a length."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

leval_datasets = __list_data_sets("leval")
