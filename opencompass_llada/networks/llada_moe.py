"""Describes LLaDA-MoE's network: the fields of its config.json, and the names of its tensors.

Both are the published ones (arXiv 2509.24389; as ZHZisZZ/dllm holds them in
dllm/pipelines/llada/models/modeling_lladamoe.py): attention is bidirectional, and layers have
experts in place of the MLP, whose weights are not divided by their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from opencompass_llada.networks.config import BidirectionalConfig
from opencompass_llada.networks.experts import ExpertDimensions
from opencompass_llada.networks.transformer import (
    LLAMA_NAMES,
    QK_NORMED_BLOCK,
    BidirectionalNetwork,
    register_network,
)


class LLaDAMoEConfig(BidirectionalConfig):
    """Configuration of a LLaDA-MoE network, in the fields of the published config.json."""

    model_type: ClassVar[str] = "llada_moe"
    # Copies of its code differ in the type, some have LLaDA's own; the architecture is the same.
    also_called = ("lladamoe", "LLaDAMoEModelLM")
    published_by = "LLaDA-MoE"
    default_theta = 50000.0
    has_qk_norm = True
    optional = BidirectionalConfig.optional | {
        *("tie_word_embeddings", "mask_token_id", "eos_token_id"),
    }
    sizes = {**BidirectionalConfig.sizes, "mlp_width": "dense_intermediate_size"}
    expert_sizes = {
        "number": "num_experts",
        "per_token": "num_experts_per_tok",
        "width": "expert_intermediate_size",
    }
    implemented = {
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "attention_dropout": (0, 0.0),
        "clip_qkv": (None,),
        "qk_layernorm": (True,),
        "moe_router_score_function": ("softmax", None),
    }
    # Of the router's, the published code reads none of these; the last two are of training.
    without_effect = frozenset(
        """
        norm_topk_prob routed_scaling_factor router_num_group router_topk_group
        output_router_logits router_aux_loss_coef rope_training
        """.split()  # noqa: SIM905
    )

    hidden_size: int = 2048
    dense_intermediate_size: int = 8192
    """Of layers without experts."""
    expert_intermediate_size: int = 1024
    shared_expert_intermediate_size: int | None = None
    """Of the expert that every token uses; None where there is none."""
    num_hidden_layers: int = 16
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 16
    """None for as many as query heads."""
    partial_rotary_factor: float = 1.0
    """Share of each head's channels that RoPE turns."""
    vocab_size: int = 157184
    max_position_embeddings: int = 8192
    """Trained length in tokens."""
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    num_experts: int = 64
    num_experts_per_tok: int = 8
    moe_layer_freq: Sequence[int] = (1,) * 16
    """For each layer 1 if it has experts and 0 if it has the dense MLP."""
    moe_router_enable_expert_bias: bool | None = False
    """Whether a bias is added to the experts' scores."""
    mask_token_id: int = 156895
    """The tokenizer's ``<|mask|>``, of the model card's sampler; config.json has none."""
    eos_token_id: int = 156892
    pad_token_id: int | None = None

    def complete(self) -> None:
        """Fill in what is None, and check that each layer is said to have experts or not."""
        super().complete()
        if len(self.moe_layer_freq) != self.num_hidden_layers or {*self.moe_layer_freq} - {0, 1}:
            raise ValueError(
                f"config.json: moe_layer_freq={list(self.moe_layer_freq)} must be a 0 or a 1 for "
                f"each of the num_hidden_layers={self.num_hidden_layers}. Take config.json from "
                "where the weights come from."
            )

    @property
    def rotated_share(self) -> float:
        """Share of each head's channels that RoPE turns."""
        return self.partial_rotary_factor

    @property
    def experts(self) -> ExpertDimensions:
        """Softmax scores, of which the best are the weights."""
        return ExpertDimensions(
            **{size: getattr(self, field) for size, field in self.expert_sizes.items()},
            shared_width=self.shared_expert_intermediate_size or 0,
            sparse_layers=tuple(bool(has_experts) for has_experts in self.moe_layer_freq),
            score="softmax",
            bias="expert_bias" if self.moe_router_enable_expert_bias else None,
            weighs_bias=True,
        )


class LLaDAMoEForMaskedDiffusion(BidirectionalNetwork):
    """LLaDA-MoE with its prediction head."""

    config_class = LLaDAMoEConfig
    names = LLAMA_NAMES._replace(
        block=QK_NORMED_BLOCK,
        sparse_block=QK_NORMED_BLOCK._replace(
            sparse="mlp",
            gate="shared_expert.gate_proj",
            up="shared_expert.up_proj",
            down="shared_expert.down_proj",
        ),
    )


register_network(LLaDAMoEForMaskedDiffusion)
