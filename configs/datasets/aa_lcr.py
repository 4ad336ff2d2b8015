"""`--datasets aa_lcr`: AA-LCR's 100 questions over several documents."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

aa_lcr_datasets = __list_data_sets("aa_lcr")
