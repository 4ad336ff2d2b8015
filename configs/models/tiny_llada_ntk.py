"""`--models tiny_llada_ntk`: with ntk and diffusion_ntk for four times its trained length."""

from mmengine.config import read_base

with read_base():
    from ..helpers.hardware import count_gpus as __count_gpus
    from ..helpers.models import list_model_configs as __list_model_configs

models = __list_model_configs(["tiny_llada"], ["ntk", "diffusion_ntk"], num_gpus=__count_gpus())
