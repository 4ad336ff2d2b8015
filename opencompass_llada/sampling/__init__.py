"""Samples from a masked diffusion model, given token ids and a model call."""

from opencompass_llada.sampling.block_cache import CacheOptions, LogitsFunction
from opencompass_llada.sampling.config import OPTION_HINTS, SamplerConfig, SpecialTokens
from opencompass_llada.sampling.early_stop import IsComplete
from opencompass_llada.sampling.loop import SamplerOutput, StepListener, make_progress, sample
from opencompass_llada.sampling.prediction import derive_seed
from opencompass_llada.sampling.schedule import cap_steps
from opencompass_llada.sampling.unmasking import STRATEGIES
