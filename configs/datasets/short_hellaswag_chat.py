"""`--datasets short_hellaswag_chat`: HellaSwag, for models with a chat template."""

from mmengine.config import read_base

with read_base():
    from ..helpers.short_sets import short_cells as __short_cells

short_datasets = __short_cells(["hellaswag"], chat=True, generation_length=512)
