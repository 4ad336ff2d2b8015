"""Native networks, read from published checkpoints without remote code."""

from opencompass_llada.networks.causal import check_causal, is_causal_architecture, load_causal
from opencompass_llada.networks.checkpoint import (
    is_hub_id,
    load_checkpoint,
    locate_checkpoint,
    open_checkpoint,
    read_config,
    read_model_config,
)
from opencompass_llada.networks.dream import DreamConfig, DreamForMaskedDiffusion
from opencompass_llada.networks.fast_dllm import FastDLLMConfig, FastDLLMForMaskedDiffusion
from opencompass_llada.networks.llada import LLaDAConfig, LLaDAForMaskedDiffusion
from opencompass_llada.networks.llada2_moe import LLaDA2MoeConfig, LLaDA2MoeForMaskedDiffusion
from opencompass_llada.networks.llada_moe import LLaDAMoEConfig, LLaDAMoEForMaskedDiffusion
from opencompass_llada.networks.sdar import SDARConfig, SDARForMaskedDiffusion
from opencompass_llada.networks.transformer import NETWORKS, BidirectionalNetwork, register_network
from opencompass_llada.weight_files import CheckpointError
