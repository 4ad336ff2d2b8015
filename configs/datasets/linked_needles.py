"""`--datasets linked_needles`: needles without the question's words, by level and length."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

linked_needles_datasets = __list_data_sets("linked_needles")
