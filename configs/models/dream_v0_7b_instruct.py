"""`--models dream_v0_7b_instruct`; written by `make model-configs`."""

from mmengine.config import read_base

with read_base():
    from ..helpers.models import models_of_name as __models_of_name

models = __models_of_name("dream_v0_7b_instruct")
