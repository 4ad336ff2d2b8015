"""`--datasets short_embedded`: the sample set of the short-context benchmarks, for tiny models."""

from mmengine.config import read_base

with read_base():
    from ..helpers.short_facts import embedded_tasks as __tasks
    from ..helpers.short_sets import embedded_cells as __embedded_cells

short_datasets = __embedded_cells(__tasks, generation_length=16)
