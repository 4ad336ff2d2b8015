"""`--datasets short_mmlu_chat`: MMLU, one data set a subject, for models with a chat template."""

from mmengine.config import read_base

with read_base():
    from ..helpers.short_sets import short_cells as __short_cells

short_datasets = __short_cells(["mmlu"], chat=True, generation_length=512)
