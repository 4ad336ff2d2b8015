"""Sampling from a masked diffusion model: settings, the reference sampler and its parts.

Knows token ids and a model call. Text, tokenizers and OpenCompass live above it, in the wrapper.
"""

from opencompass_llada.sampling.acceptance import AcceptanceRule, ScheduledAcceptance
from opencompass_llada.sampling.cache import CacheOptions, parse_cache_options
from opencompass_llada.sampling.config import (
    REMASKING_STRATEGIES,
    SamplerConfig,
    SpecialTokens,
    parse_sampler_config,
)
from opencompass_llada.sampling.forward import (
    ForwardPolicy,
    FullForward,
    GuidedForward,
    LogitsFunction,
)
from opencompass_llada.sampling.kept_forward import KeptForward, PassProvider, PassSession
from opencompass_llada.sampling.noise import derive_seed
from opencompass_llada.sampling.progress import (
    PROGRESS_VARIABLE,
    NoProgress,
    Progress,
    ProgressBar,
    make_progress,
)
from opencompass_llada.sampling.sampler import SamplerOutput, sample
from opencompass_llada.sampling.schedule import BlockPlan, cap_steps, plan_blocks, reveals_per_step

__all__ = [
    "PROGRESS_VARIABLE",
    "REMASKING_STRATEGIES",
    "AcceptanceRule",
    "BlockPlan",
    "CacheOptions",
    "ForwardPolicy",
    "FullForward",
    "GuidedForward",
    "KeptForward",
    "LogitsFunction",
    "NoProgress",
    "PassProvider",
    "PassSession",
    "Progress",
    "ProgressBar",
    "SamplerConfig",
    "SamplerOutput",
    "ScheduledAcceptance",
    "SpecialTokens",
    "cap_steps",
    "derive_seed",
    "make_progress",
    "parse_cache_options",
    "parse_sampler_config",
    "plan_blocks",
    "reveals_per_step",
    "sample",
]
