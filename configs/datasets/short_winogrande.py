"""`--datasets short_winogrande`: Winogrande, for base models."""

from mmengine.config import read_base

with read_base():
    from ..helpers.short_sets import short_cells as __short_cells

short_datasets = __short_cells(["winogrande"], generation_length=256)
