"""`--datasets short_mbpp`: MBPP, for base models."""

from mmengine.config import read_base

with read_base():
    from ..helpers.short_sets import short_cells as __short_cells

short_datasets = __short_cells(["mbpp"], generation_length=256)
