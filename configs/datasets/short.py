"""`--datasets short`: short-context tasks of OpenCompass, for base models or LLADA_PROMPT=chat."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

short_datasets = __list_data_sets("short")
