"""`--datasets niah_128k`: one needle, at UltraLLaDA's lengths: 8K to 128K in steps of 8,192."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

niah_128k_datasets = __list_data_sets("niah", lengths=list(range(8192, 131073, 8192)))
