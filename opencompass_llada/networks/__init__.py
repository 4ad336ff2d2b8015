"""Native networks, read from published checkpoints without remote code."""

from opencompass_llada.networks.adapters import (
    Adapter,
    AdapterSource,
    build_without_weights,
    check_adapter,
    merge_adapter,
    open_adapter,
    parse_adapter,
)
from opencompass_llada.networks.attention import ATTENTION_BACKENDS, check_backend_name
from opencompass_llada.networks.causal import (
    check_causal,
    is_causal_architecture,
    load_causal,
)
from opencompass_llada.networks.checkpoint import (
    is_hub_id,
    load_checkpoint,
    locate_checkpoint,
    open_checkpoint,
    read_model_config,
)
from opencompass_llada.networks.dream import DreamConfig, DreamForMaskedDiffusion
from opencompass_llada.networks.llada import LLaDAConfig, LLaDAForMaskedDiffusion
from opencompass_llada.networks.transformer import NETWORKS, BidirectionalNetwork, register_network
from opencompass_llada.weight_files import CheckpointError

__all__ = [
    "ATTENTION_BACKENDS",
    "NETWORKS",
    "Adapter",
    "AdapterSource",
    "BidirectionalNetwork",
    "CheckpointError",
    "DreamConfig",
    "DreamForMaskedDiffusion",
    "LLaDAConfig",
    "LLaDAForMaskedDiffusion",
    "build_without_weights",
    "check_adapter",
    "check_backend_name",
    "check_causal",
    "is_causal_architecture",
    "is_hub_id",
    "load_causal",
    "load_checkpoint",
    "locate_checkpoint",
    "merge_adapter",
    "open_adapter",
    "open_checkpoint",
    "parse_adapter",
    "read_model_config",
    "register_network",
]
