"""`--datasets ppl_generated_longllada`: LongLLaDA's estimator on generated text."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

ppl_generated_longllada_datasets = __list_data_sets("perplexity", estimator="longllada", texts=1)
