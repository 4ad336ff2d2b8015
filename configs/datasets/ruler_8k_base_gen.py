"""`--datasets ruler_8k_base_gen`: RULER's 13 tasks at 8,192 tokens, for base models."""

from mmengine.config import read_base

with read_base():
    from ...ruler_patches.ruler import ruler_cells as __ruler_cells

ruler_datasets = __ruler_cells([8192])
