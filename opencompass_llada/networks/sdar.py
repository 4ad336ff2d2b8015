"""Describes SDAR's network: the fields of its config.json, and the names of its tensors.

Both are Qwen3's with a mask and a block length (JetAstra/SDAR, training/model/SDAR-8B-Chat). A mask
predicts its own token. Unlike in SDAR's own code, cosine and sine stay in float32.
"""

from __future__ import annotations

from typing import ClassVar

from opencompass_llada.networks.attention_pattern import AttentionPattern, Blocks
from opencompass_llada.networks.config import BidirectionalConfig
from opencompass_llada.networks.transformer import (
    LLAMA_NAMES,
    QK_NORMED_BLOCK,
    BidirectionalNetwork,
    register_network,
)


class SDARConfig(BidirectionalConfig):
    """Configuration of an SDAR network, in the fields of the published config.json."""

    model_type: ClassVar[str] = "sdar"
    published_by = "SDAR"
    default_theta = 1000000.0
    has_qk_norm = True
    sizes = {**BidirectionalConfig.sizes, "head_dim": "head_dim"}
    implemented = {
        "hidden_act": ("silu",),
        "attention_dropout": (0, 0.0),
        "attention_bias": (False,),
        "use_sliding_window": (False,),
    }
    # The first two are read where use_sliding_window is true, which is refused; the rest are
    # switches of SDAR's own code that change how it computes and not what.
    without_effect = frozenset(
        """
        sliding_window max_window_layers rope_training debug ep_size fuse_cross_entropy
        micro_forward skip_checkpoint use_deepep
        """.split()  # noqa: SIM905
    )

    hidden_size: int = 4096
    intermediate_size: int = 12288
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    vocab_size: int = 151936
    max_position_embeddings: int = 32768
    """Trained length in tokens."""
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    block_size: int = 4
    """Tokens that see each other; all see the blocks before theirs."""
    mask_token_id: int = 151669
    eos_token_id: int = 151643
    pad_token_id: int | None = None

    @property
    def attention_pattern(self) -> AttentionPattern:
        """Blocks of ``block_size`` tokens."""
        return Blocks(self.block_size)


class SDARForMaskedDiffusion(BidirectionalNetwork):
    """SDAR with its prediction head."""

    config_class = SDARConfig
    names = LLAMA_NAMES._replace(block=QK_NORMED_BLOCK)


register_network(SDARForMaskedDiffusion)
