"""`--datasets ppl_generated_last`: the bound of the same 64 tokens, given a growing prefix."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

ppl_generated_last_datasets = __list_data_sets("perplexity", target="64")
