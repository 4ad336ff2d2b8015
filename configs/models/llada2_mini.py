"""`--models llada2_mini`: LLADA_SCALING and others choose (docs/reference/models.md)."""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import list_models as __list_models

models = __list_models("llada2_mini")
