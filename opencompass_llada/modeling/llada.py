"""LLaDA's network: published tensor names over the shared bidirectional transformer.

Registered for ``model_type: llada``. No biases, rotary positions over the whole head, separate
input and output embeddings.

Source: LLaDA, arXiv 2502.09992; tensor names and config fields of GSAI-ML/LLaDA-8B-Base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn
from transformers import AutoConfig, AutoModel

from opencompass_llada.modeling.bidirectional import BidirectionalNetwork
from opencompass_llada.modeling.block import Block, BlockParts, RMSNorm
from opencompass_llada.modeling.llada_config import LLaDAConfig
from opencompass_llada.rope_scaling import RopeScaling


class LLaDABlock(Block):
    """A block with LLaDA's tensor names."""

    def __init__(self, config: LLaDAConfig) -> None:
        """Create the projections.

        Args:
            config: Sizes of the network.
        """
        super().__init__()
        width, head_dim = config.d_model, config.head_dim
        self.head_dim = head_dim
        self.attn_norm = RMSNorm(width, config.rms_norm_eps)
        self.q_proj = nn.Linear(width, config.n_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.n_kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.n_kv_heads * head_dim, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_norm = RMSNorm(width, config.rms_norm_eps)
        self.ff_proj = nn.Linear(width, config.mlp_hidden_size, bias=False)
        self.up_proj = nn.Linear(width, config.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(config.mlp_hidden_size, width, bias=False)

    @property
    def parts(self) -> BlockParts:
        """The modules by what they do; LLaDA's ``ff_proj`` is the gate."""
        return BlockParts(
            attention_norm=self.attn_norm,
            query=self.q_proj,
            key=self.k_proj,
            value=self.v_proj,
            attention_out=self.attn_out,
            mlp_norm=self.ff_norm,
            gate=self.ff_proj,
            up=self.up_proj,
            down=self.ff_out,
        )


class LLaDABackbone(nn.Module):
    """Holds the published name ``transformer`` with embedding, blocks, final norm and head."""

    def __init__(self, config: LLaDAConfig) -> None:
        """Create all parameters.

        Args:
            config: Sizes of the network.
        """
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.embedding_size, config.d_model),
                "blocks": nn.ModuleList(LLaDABlock(config) for _ in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
                "ff_out": nn.Linear(config.d_model, config.embedding_size, bias=False),
            }
        )


class LLaDAForMaskedDiffusion(BidirectionalNetwork):
    """LLaDA with its prediction head."""

    config_class = LLaDAConfig
    _no_split_modules = ("LLaDABlock",)

    def __init__(
        self,
        config: LLaDAConfig,
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
        self.model = LLaDABackbone(config)
        self.post_init()

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks, first to last."""
        return cast(Sequence[Block], self.model.transformer["blocks"])

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the head."""
        return self.model.transformer["ln_f"]

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.model.transformer["wte"]

    def get_output_embeddings(self) -> nn.Module:
        """Return the prediction head."""
        return self.model.transformer["ff_out"]


AutoConfig.register("llada", LLaDAConfig, exist_ok=True)
AutoModel.register(LLaDAConfig, LLaDAForMaskedDiffusion, exist_ok=True)
