"""`--datasets ruler_48k_chat_gen`: RULER's 13 tasks at 49,152 tokens, for chat models."""

from mmengine.config import read_base

with read_base():
    from ...ruler_patches.ruler import ruler_cells as __ruler_cells

ruler_datasets = __ruler_cells([49152], chat=True)
