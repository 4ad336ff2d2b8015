"""`--models llada_1_5_ntk`: with LongLLaDA's lambdas, for 8K, 16K, 24K and 32K tokens."""

from mmengine.config import read_base

with read_base():
    from ..helpers.hardware import count_gpus as __count_gpus
    from ..helpers.models import list_model_configs as __list_model_configs
    from ..helpers.models import longllada_scalings as __longllada_scalings

models = __list_model_configs(["llada_1_5"], __longllada_scalings, num_gpus=__count_gpus())
