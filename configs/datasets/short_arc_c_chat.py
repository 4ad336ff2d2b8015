"""`--datasets short_arc_c_chat`: ARC-Challenge, for models with a chat template."""

from mmengine.config import read_base

with read_base():
    from ..helpers.short_sets import short_cells as __short_cells

short_datasets = __short_cells(["arc_c"], chat=True, generation_length=512)
