"""Describes LLaDA2's network: the fields of its config.json, and the names of its tensors.

Both are the published ones (arXiv 2512.15745; inclusionAI/dFactory, models/llada2_moe). Attention
is block-causal, RoPE turns half of each head, and all layers but the first have experts, chosen by
group, beside one that every token uses. A mask predicts its own token. Unlike in the published
code, cosine and sine stay in float32.
"""

from __future__ import annotations

from typing import ClassVar

from opencompass_llada.networks.attention_pattern import AttentionPattern, Blocks
from opencompass_llada.networks.config import BidirectionalConfig
from opencompass_llada.networks.experts import ExpertDimensions
from opencompass_llada.networks.transformer import (
    LLAMA_NAMES,
    BidirectionalNetwork,
    register_network,
)

BLOCK_LENGTH = 32
"""Tokens of a block: what the published ``generate`` takes; config.json does not say it."""


class LLaDA2MoeConfig(BidirectionalConfig):
    """Configuration of a LLaDA2 network, in the fields of the published config.json."""

    model_type: ClassVar[str] = "llada2_moe"
    also_called = ("llada2_moe_veomni",)
    published_by = "LLaDA2"
    default_theta = 600000.0
    has_qk_norm = True
    optional = BidirectionalConfig.optional | {
        *("tie_word_embeddings", "mask_token_id", "eos_token_id"),
    }
    sizes = {**BidirectionalConfig.sizes, "head_dim": "head_dim"}
    expert_sizes = {
        "number": "num_experts",
        "per_token": "num_experts_per_tok",
        "width": "moe_intermediate_size",
        "num_groups": "n_group",
        "groups_used": "topk_group",
    }
    implemented = {
        "hidden_act": ("silu",),
        "score_function": ("sigmoid",),
        "router_dtype": ("fp32",),
        **dict.fromkeys(("attention_dropout", "embedding_dropout", "output_dropout"), (0, 0.0)),
        **dict.fromkeys(("use_bias", "use_qkv_bias", "use_sliding_window"), (False,)),
        **dict.fromkeys(("norm_head", "norm_softmax"), (False,)),
        "using_split_qkv_in_self_attention": (False,),
        **dict.fromkeys(("use_rmsnorm", "use_qk_norm"), (True,)),
        **dict.fromkeys(("norm_topk_prob", "moe_router_enable_expert_bias"), (True,)),
    }
    # The published code turns by partial_rotary_factor and does not read rotary_dim; the next two
    # are read where use_sliding_window is true, which is refused; the last is of training.
    without_effect = frozenset(
        {
            "rotary_dim",
            "sliding_window",
            "max_window_layers",
            "rope_training",
            "output_router_logits",
        }
    )

    hidden_size: int = 2048
    intermediate_size: int = 5120
    """Of the dense MLP."""
    num_hidden_layers: int = 20
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 128
    partial_rotary_factor: float = 0.5
    """Share of each head's channels that RoPE turns."""
    vocab_size: int = 157184
    max_position_embeddings: int = 16384
    """Trained length in tokens."""
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    first_k_dense_replace: int = 1
    """Layers before the first with experts."""
    num_experts: int = 256
    num_experts_per_tok: int = 8
    num_shared_experts: int | None = 1
    """None for none; several are one of their joint size."""
    moe_intermediate_size: int = 512
    n_group: int = 8
    topk_group: int = 4
    routed_scaling_factor: float = 2.5
    mask_token_id: int = 156895
    """The tokenizer's ``<|mask|>``, that the published ``generate`` takes; config.json has none."""
    eos_token_id: int = 156892
    """As `mask_token_id`."""
    pad_token_id: int | None = 156892

    @property
    def rotated_share(self) -> float:
        """Share of each head's channels that RoPE turns."""
        return self.partial_rotary_factor

    @property
    def attention_pattern(self) -> AttentionPattern:
        """Blocks of 32 tokens."""
        return Blocks(BLOCK_LENGTH)

    @property
    def experts(self) -> ExpertDimensions:
        """Sigmoid scores, a bias to choose by, the best groups by their two best experts."""
        layers, dense = range(self.num_hidden_layers), self.first_k_dense_replace
        return ExpertDimensions(
            **{size: getattr(self, field) for size, field in self.expert_sizes.items()},
            shared_width=self.moe_intermediate_size * (self.num_shared_experts or 0),
            sparse_layers=tuple(layer >= dense for layer in layers),
            score="sigmoid",
            bias="gate.expert_bias",
            normalised=self.num_experts_per_tok > 1,
            scale=self.routed_scaling_factor,
        )


_ATTENTION = LLAMA_NAMES.block._replace(
    query=None,
    key=None,
    value=None,
    query_key_value="attention.query_key_value",
    query_norm="attention.query_layernorm",
    key_norm="attention.key_layernorm",
    attention_out="attention.dense",
)


class LLaDA2MoeForMaskedDiffusion(BidirectionalNetwork):
    """LLaDA2 with its prediction head."""

    config_class = LLaDA2MoeConfig
    names = LLAMA_NAMES._replace(
        embedding="model.word_embeddings",
        block=_ATTENTION,
        sparse_block=_ATTENTION._replace(
            sparse="mlp",
            gate="mlp.shared_experts.gate_proj",
            up="mlp.shared_experts.up_proj",
            down="mlp.shared_experts.down_proj",
        ),
    )


register_network(LLaDA2MoeForMaskedDiffusion)
