"""`--datasets short_math`: MATH, for base models."""

from mmengine.config import read_base

with read_base():
    from ..helpers.short_sets import short_cells as __short_cells

short_datasets = __short_cells(["math"], generation_length=256)
