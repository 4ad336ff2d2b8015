"""`--models llada_1_5`; written by `make model-configs`."""

from mmengine.config import read_base

with read_base():
    from ..helpers.models import models_of_name as __models_of_name

models = __models_of_name("llada_1_5")
