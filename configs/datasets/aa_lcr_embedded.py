"""`--datasets aa_lcr_embedded`: a few samples of AA-LCR that come as code."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

aa_lcr_embedded_datasets = __list_data_sets("aa_lcr", data="embedded")
