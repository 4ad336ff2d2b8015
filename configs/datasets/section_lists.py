"""`--datasets section_lists`: what every k-th section says, by level and length."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

section_lists_datasets = __list_data_sets("section_lists")
