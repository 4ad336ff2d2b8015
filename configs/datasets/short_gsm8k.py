"""`--datasets short_gsm8k`: GSM8K, for base models."""

from mmengine.config import read_base

with read_base():
    from ..helpers.short_sets import short_cells as __short_cells

short_datasets = __short_cells(["gsm8k"], generation_length=256)
