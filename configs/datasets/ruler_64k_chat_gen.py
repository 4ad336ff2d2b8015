"""`--datasets ruler_64k_chat_gen`: RULER's 13 tasks at 65,536 tokens, for chat models."""

from mmengine.config import read_base

with read_base():
    from ...ruler_patches.ruler import ruler_cells as __ruler_cells

ruler_datasets = __ruler_cells([65536], chat=True)
