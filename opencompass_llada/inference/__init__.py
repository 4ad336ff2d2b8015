"""Fast passes over the native networks, with the plain ``forward`` as their oracle."""

from opencompass_llada.inference.float8 import (
    check_attention,
    check_cache,
    check_float8,
    check_sizes,
    quantise_network,
)
from opencompass_llada.inference.forward import FastNetwork
from opencompass_llada.inference.memory import (
    MemoryPlan,
    MemoryPlanError,
    NetworkSize,
    card_budget,
    check_plan,
    mlp_chunk_of,
)
from opencompass_llada.inference.pass_options import PassOptions, PrefillOptions
from opencompass_llada.inference.session import PassServer, Session, prefill_chunk
