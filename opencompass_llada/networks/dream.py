"""Describes Dream's network: the fields of its config.json, and the names of its tensors.

Both are Qwen2's with a mask (arXiv 2508.15487; Dream-org/Dream-v0-Base-7B). It predicts at position
i the token at i + 1, which callers do not see. Unlike in Dream's own code, cosine and sine stay in
float32.
"""

from __future__ import annotations

from typing import ClassVar

from opencompass_llada.networks.config import BidirectionalConfig
from opencompass_llada.networks.transformer import (
    LLAMA_NAMES,
    BidirectionalNetwork,
    register_network,
)

TRAINED_LENGTH = 2048
"""Tokens that Dream-v0 was trained on (LongLLaDA, arXiv 2506.14429; Dream's README)."""


class DreamConfig(BidirectionalConfig):
    """Configuration of a Dream network, in the fields of the published config.json."""

    model_type: ClassVar[str] = "Dream"
    published_by = "Dream-v0-7B"
    default_theta = 1000000.0
    has_qkv_bias = True
    implemented = {
        "hidden_act": ("silu",),
        "attention_dropout": (0, 0.0),
        "mlp_bias": (False, None),
        "tie_word_embeddings": (False,),
        "use_sliding_window": (False,),
        "use_mrope": (False, None),
        "attention_bias": (True, None),  # of queries, keys and values, as Qwen2 has it
    }
    # The first two are read where use_sliding_window is true, which is refused.
    without_effect = frozenset({"sliding_window", "max_window_layers", "rope_training"})

    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int | None = 4
    """None for as many as query heads."""
    vocab_size: int = 152064
    """Rows of the embedding, more than the tokenizer has entries."""
    max_position_embeddings: int = 131072
    """Inherited from Qwen2.5; not what Dream was trained on."""
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    mask_token_id: int = 151666
    eos_token_id: int = 151643
    pad_token_id: int | None = 151643

    @property
    def trained_length(self) -> int:
        """Tokens that Dream was trained on; a checkpoint trained further is given its length.

        That is ``rope_scaling=dict(..., trained_length=...)``: config.json does not say it.
        """
        return min(TRAINED_LENGTH, self.max_position_embeddings)


class DreamForMaskedDiffusion(BidirectionalNetwork):
    """Dream with its prediction head."""

    config_class = DreamConfig
    logit_shift = 1
    names = LLAMA_NAMES


register_network(DreamForMaskedDiffusion)
