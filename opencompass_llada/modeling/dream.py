"""Dream's network: Qwen2's tensors over the shared bidirectional transformer, shifted logits.

Registered for ``model_type: Dream``. Queries, keys and values have biases, key/value heads are
shared by groups of query heads, input and output embeddings are separate. The network was made
of an autoregressive one and still predicts at position i the token at i + 1: states and logits
asked for at position p are those computed at p - 1, and position 0 has its own, as in Dream's
code. So callers never see the shift.

Differs from Dream's own code in that cosine and sine stay in float32 where it rounds them to the
weights' dtype; in float32 both are the same.

Source: Dream, arXiv 2508.15487; tensor names and config fields of Dream-org/Dream-v0-Base-7B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn
from transformers import AutoConfig, AutoModel

from opencompass_llada.modeling.bidirectional import BidirectionalNetwork
from opencompass_llada.modeling.block import Block, BlockParts, RMSNorm
from opencompass_llada.modeling.dream_config import DreamConfig
from opencompass_llada.rope_scaling import RopeScaling


class DreamBlock(Block):
    """A block with Dream's tensor names."""

    def __init__(self, config: DreamConfig) -> None:
        """Create the projections.

        Args:
            config: Sizes of the network.
        """
        super().__init__()
        width, head_dim, wide = config.hidden_size, config.head_dim, config.intermediate_size
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = head_dim
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(width, heads * head_dim, bias=True),
                "k_proj": nn.Linear(width, kv_heads * head_dim, bias=True),
                "v_proj": nn.Linear(width, kv_heads * head_dim, bias=True),
                "o_proj": nn.Linear(heads * head_dim, width, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(width, wide, bias=False),
                "up_proj": nn.Linear(width, wide, bias=False),
                "down_proj": nn.Linear(wide, width, bias=False),
            }
        )
        self.input_layernorm = RMSNorm(width, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(width, config.rms_norm_eps)

    @property
    def parts(self) -> BlockParts:
        """The modules by what they do."""
        return BlockParts(
            attention_norm=self.input_layernorm,
            query=self.self_attn["q_proj"],
            key=self.self_attn["k_proj"],
            value=self.self_attn["v_proj"],
            attention_out=self.self_attn["o_proj"],
            mlp_norm=self.post_attention_layernorm,
            gate=self.mlp["gate_proj"],
            up=self.mlp["up_proj"],
            down=self.mlp["down_proj"],
        )


class DreamBackbone(nn.Module):
    """Holds the published name ``model`` with embedding, blocks and final norm."""

    def __init__(self, config: DreamConfig) -> None:
        """Create the parameters.

        Args:
            config: Sizes of the network.
        """
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DreamBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class DreamForMaskedDiffusion(BidirectionalNetwork):
    """Dream with its prediction head."""

    config_class = DreamConfig
    _no_split_modules = ("DreamBlock",)
    logit_shift = 1

    def __init__(
        self,
        config: DreamConfig,
        rope_scaling: RopeScaling | None = None,
        attention_backend: str = "auto",
    ) -> None:
        """Build the network; see BidirectionalNetwork.

        Args:
            config: Sizes and special token ids.
            rope_scaling: Scaling to apply to ``config.rope_theta``; None for none.
            attention_backend: See modeling.attention; resolved at the first forward pass.
        """
        super().__init__(config, rope_scaling, attention_backend)
        self.model = DreamBackbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks, first to last."""
        return cast(Sequence[Block], self.model.layers)

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the head."""
        return self.model.norm

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        """Return the prediction head."""
        return self.lm_head


AutoConfig.register("Dream", DreamConfig, exist_ok=True)
AutoModel.register(DreamConfig, DreamForMaskedDiffusion, exist_ok=True)
