"""`--datasets ruler_128k_chat_gen`: RULER's 13 tasks at 131,072 tokens, for chat models."""

from mmengine.config import read_base

with read_base():
    from ...ruler_patches.ruler import ruler_cells as __ruler_cells

ruler_datasets = __ruler_cells([131072], chat=True)
