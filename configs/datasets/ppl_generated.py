"""`--datasets ppl_generated`: the likelihood bound of whole generated texts."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

ppl_generated_datasets = __list_data_sets("perplexity", draws=12)
