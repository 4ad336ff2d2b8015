"""`--datasets mrcr`: MRCR v2 with 2, 4 and 8 needles, at 8k to 128k tokens."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_data_sets as __list_data_sets

mrcr_datasets = __list_data_sets("mrcr")
