"""`--datasets ppl_generated`: the likelihood bound of whole generated texts."""

from mmengine.config import read_base

with read_base():
    from ..helpers.ppl_cells import ppl_cells as __ppl_cells, tiny_lengths as __tiny_lengths

ppl_datasets = __ppl_cells(__tiny_lengths, num_draws=12)
