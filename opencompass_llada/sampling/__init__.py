"""Samples from a masked diffusion model: settings, the reference sampler and its parts.

Knows token ids and a model call. Text, tokenizers and OpenCompass live above it, in the wrapper.
"""

from opencompass_llada.sampling.block_cache import CacheOptions, LogitsFunction
from opencompass_llada.sampling.config import (
    SamplerConfig,
    SpecialTokens,
)
from opencompass_llada.sampling.early_stop import IsComplete
from opencompass_llada.sampling.loop import SamplerOutput, sample
from opencompass_llada.sampling.noise import derive_seed
from opencompass_llada.sampling.progress import (
    PROGRESS_VARIABLE,
    ProgressBar,
    StepListener,
    make_progress,
)
from opencompass_llada.sampling.schedule import SCHEDULES, BlockPlan, cap_steps
from opencompass_llada.sampling.unmasking import (
    ACCEPTANCE_RULES,
    STRATEGIES,
    AcceptanceOptions,
    AcceptanceRule,
    StepContext,
    Strategy,
)
