"""`--datasets changing_state`: what holds at the end of many changes, by level and length."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

changing_state_datasets = __list_data_sets("changing_state")
