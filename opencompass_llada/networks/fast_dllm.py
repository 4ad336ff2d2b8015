"""Describes Fast-dLLM v2's network: the fields of its config.json, and the names of its tensors.

Both are Qwen2.5's with a mask and a block length (arXiv 2509.26328;
Efficient-Large-Model/Fast_dLLM_v2_7B, modeling.py and configuration.py). It predicts at position i
the token at i + 1, so that a block's first token comes from the block before it. Unlike in its own
code, cosine and sine stay in float32.
"""

from __future__ import annotations

from typing import ClassVar

from opencompass_llada.networks.attention_pattern import AttentionPattern, Blocks
from opencompass_llada.networks.config import BidirectionalConfig
from opencompass_llada.networks.transformer import (
    LLAMA_NAMES,
    BidirectionalNetwork,
    register_network,
)


class FastDLLMConfig(BidirectionalConfig):
    """Configuration of a Fast-dLLM v2 network, in the fields of the published config.json."""

    model_type: ClassVar[str] = "Fast_dLLM_Qwen"
    published_by = "Fast-dLLM v2"
    default_theta = 1000000.0
    has_qkv_bias = True
    implemented = {
        "hidden_act": ("silu",),
        "attention_dropout": (0, 0.0),
        "use_sliding_window": (False,),
    }
    # The first two are read where use_sliding_window is true, which is refused; the third in
    # training.
    without_effect = frozenset(
        {"sliding_window", "max_window_layers", "conplemenrary_mask", "rope_training"}
    )
    optional = BidirectionalConfig.optional | {"mask_token_id", "tie_word_embeddings"}

    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int | None = 4
    """None for as many as query heads."""
    vocab_size: int = 152064
    """Rows of the embedding, more than the tokenizer has entries."""
    max_position_embeddings: int = 32768
    """Of Qwen2.5, whose length the few tokens of further training did not reach."""
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    layer_types: list[str] | None = None
    """Read where use_sliding_window is true, which is refused."""
    tie_word_embeddings: bool = False
    bd_size: int = 32
    """Tokens that see each other; all see the blocks before theirs."""
    mask_token_id: int = 151665
    """Not in config.json: a default of the published ``generate``."""
    eos_token_id: int = 151645
    pad_token_id: int | None = 151645

    @property
    def attention_pattern(self) -> AttentionPattern:
        """Blocks of ``bd_size`` tokens."""
        return Blocks(self.bd_size)


class FastDLLMForMaskedDiffusion(BidirectionalNetwork):
    """Fast-dLLM v2 with its prediction head."""

    config_class = FastDLLMConfig
    logit_shift = 1
    names = LLAMA_NAMES


register_network(FastDLLMForMaskedDiffusion)
