"""`--datasets ppl_generated_last`: the bound of the same 64 tokens, given a growing prefix."""

from mmengine.config import read_base

with read_base():
    from ..helpers.ppl_cells import ppl_cells as __ppl_cells, tiny_lengths as __tiny_lengths

ppl_datasets = __ppl_cells(__tiny_lengths, target=64)
