"""Sampling from a masked diffusion model: settings, the reference sampler and its parts.

Knows token ids and a model call. Text, tokenizers and OpenCompass live above it, in the wrapper.
"""

from opencompass_llada.sampling.acceptance import (
    ACCEPTANCE_RULES,
    AcceptanceOptions,
    AcceptanceRule,
    IndependentAcceptance,
    RuleKind,
    ScheduledAcceptance,
    StepContext,
    parse_acceptance_options,
)
from opencompass_llada.sampling.block_cache import CacheOptions, parse_cache_options
from opencompass_llada.sampling.config import (
    SamplerConfig,
    SpecialTokens,
    parse_sampler_config,
)
from opencompass_llada.sampling.early_stop import IsComplete
from opencompass_llada.sampling.forward import (
    ForwardPolicy,
    FullForward,
    GuidedForward,
    KeptForward,
    LogitsFunction,
    PassProvider,
    PassSession,
)
from opencompass_llada.sampling.loop import SamplerOutput, sample
from opencompass_llada.sampling.noise import derive_seed
from opencompass_llada.sampling.progress import (
    PROGRESS_VARIABLE,
    NoProgress,
    Progress,
    ProgressBar,
    make_progress,
)
from opencompass_llada.sampling.schedule import (
    SCHEDULES,
    BlockPlan,
    StepPlan,
    cap_steps,
    plan_blocks,
    plan_steps,
    reveals_per_step,
)
from opencompass_llada.sampling.unmasking import STRATEGIES, Strategy

__all__ = [
    "ACCEPTANCE_RULES",
    "AcceptanceOptions",
    "RuleKind",
    "parse_acceptance_options",
    "PROGRESS_VARIABLE",
    "SCHEDULES",
    "STRATEGIES",
    "AcceptanceRule",
    "BlockPlan",
    "CacheOptions",
    "ForwardPolicy",
    "FullForward",
    "GuidedForward",
    "IndependentAcceptance",
    "IsComplete",
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
    "Strategy",
    "StepContext",
    "StepPlan",
    "cap_steps",
    "derive_seed",
    "make_progress",
    "parse_cache_options",
    "parse_sampler_config",
    "plan_blocks",
    "plan_steps",
    "reveals_per_step",
    "sample",
]
