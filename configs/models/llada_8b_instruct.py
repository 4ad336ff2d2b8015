"""`--models llada_8b_instruct`: without RoPE scaling; on a GPU if there is one."""

from mmengine.config import read_base

with read_base():
    from ..helpers.hardware import count_gpus as __count_gpus
    from ..helpers.models import list_model_configs as __list_model_configs

models = __list_model_configs(["llada_8b_instruct"], num_gpus=__count_gpus())
