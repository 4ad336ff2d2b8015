"""Native networks, read from published checkpoints without remote code."""

from opencompass_llada.modeling.attention import ATTENTION_BACKENDS, check_backend_name
from opencompass_llada.modeling.causal import (
    check_causal,
    is_causal_architecture,
    load_causal,
)
from opencompass_llada.modeling.checkpoint import (
    CheckpointError,
    check_llada,
    is_hub_id,
    load_llada,
    locate_checkpoint,
    open_checkpoint,
    read_model_config,
)
from opencompass_llada.modeling.config import LLaDAConfig
from opencompass_llada.modeling.llada import LLaDAForMaskedDiffusion

__all__ = [
    "ATTENTION_BACKENDS",
    "CheckpointError",
    "LLaDAConfig",
    "LLaDAForMaskedDiffusion",
    "check_backend_name",
    "check_causal",
    "check_llada",
    "is_causal_architecture",
    "is_hub_id",
    "load_causal",
    "load_llada",
    "locate_checkpoint",
    "open_checkpoint",
    "read_model_config",
]
