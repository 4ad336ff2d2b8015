"""`--datasets graph_walks`: nodes that a search in a list of edges returns, by level and length."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

graph_walks_datasets = __list_data_sets("graph_walks")
