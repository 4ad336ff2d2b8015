"""`--datasets ruler_embedded`: the tasks that need no data, at tiny-llada's lengths."""

from mmengine.config import read_base

with read_base():
    from ...ruler_patches.ruler import embedded_cells as __embedded_cells
    from ..helpers.model_facts import tiny_ruler_tokens as __tiny_ruler_tokens

ruler_datasets = __embedded_cells(__tiny_ruler_tokens)
