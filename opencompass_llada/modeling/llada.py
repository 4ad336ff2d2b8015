"""LLaDA's network: a bidirectional transformer that predicts the tokens at mask positions.

transformers conventions (PreTrainedModel, registered for ``model_type: llada``), published tensor
names, no remote code. Gives hidden states, and logits only for the positions asked for. It does
no sampling, computes no loss and keeps no cache of keys and values.

Source: LLaDA, arXiv 2502.09992; tensor names and config fields of GSAI-ML/LLaDA-8B-Base.

Shape suffixes: B batch, L positions, P positions asked for, M hidden size, H heads, D head size,
V vocabulary entries.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from opencompass_llada.modeling.attention import Attention, choose_attention, padding_mask
from opencompass_llada.modeling.config import LLaDAConfig
from opencompass_llada.rope import ResolvedRope, apply_rotary, resolve_rope, rotation_table
from opencompass_llada.rope_scaling import RopeScaling

Rotation = tuple[torch.Tensor, torch.Tensor]  # cos and sin, float32 [L, D]


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, scaled in the input's dtype (as LLaDA's)."""

    def __init__(self, size: int, eps: float) -> None:
        """Create the scale.

        Args:
            size: Channels.
            eps: Added to the mean square.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_BLM: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension."""
        x32_BLM = x_BLM.float()
        scale_BL1 = torch.rsqrt(x32_BLM.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (x32_BLM * scale_BL1).to(x_BLM.dtype)


class Block(nn.Module):
    """One pre-norm transformer block with bidirectional attention and a gated SiLU MLP."""

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

    def forward(
        self,
        x_BLM: torch.Tensor,
        rotation: Rotation,
        mask: torch.Tensor | None,
        attend: Attention,
        positions_BP: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Add attention and MLP to the residual stream.

        Args:
            x_BLM: Residual stream.
            rotation: cos and sin, float32 [L, D].
            mask: bool [B, 1, 1, L] of real keys, or None.
            attend: The attention function.
            positions_BP: int64, the only positions whose output is wanted; None for all. Keys
                and values are of all positions either way.

        Returns:
            The new residual stream, [B, L, M] or [B, P, M].
        """
        h_BLM = self.attn_norm(x_BLM)
        k_BHLD = apply_rotary(self._heads(self.k_proj(h_BLM)), *rotation)
        v_BHLD = self._heads(self.v_proj(h_BLM))
        if positions_BP is not None:
            x_BLM, h_BLM = take(x_BLM, positions_BP), take(h_BLM, positions_BP)
            rotation = (rotation[0][positions_BP][:, None], rotation[1][positions_BP][:, None])
        q_BHLD = apply_rotary(self._heads(self.q_proj(h_BLM)), *rotation)
        out_BHLD = attend(q_BHLD, k_BHLD, v_BHLD, mask)
        x_BLM = x_BLM + self.attn_out(out_BHLD.transpose(1, 2).flatten(-2))
        h_BLM = self.ff_norm(x_BLM)
        return x_BLM + self.ff_out(F.silu(self.ff_proj(h_BLM)) * self.up_proj(h_BLM))

    def _heads(self, x_BLM: torch.Tensor) -> torch.Tensor:
        return x_BLM.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def take(x_BLM: torch.Tensor, positions_BP: torch.Tensor) -> torch.Tensor:
    """Return x at each row's own positions, [B, P, M]."""
    return x_BLM.gather(1, positions_BP[..., None].expand(-1, -1, x_BLM.shape[-1]))


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
                "blocks": nn.ModuleList(Block(config) for _ in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
                "ff_out": nn.Linear(config.d_model, config.embedding_size, bias=False),
            }
        )


class LLaDAForMaskedDiffusion(PreTrainedModel):
    """LLaDA with its prediction head.

    Attributes:
        resolved_rope: The RoPE scaling that the network was built with.
    """

    config_class = LLaDAConfig
    base_model_prefix = "model"
    _no_split_modules = ("Block",)
    _supports_sdpa = True

    def __init__(
        self,
        config: LLaDAConfig,
        rope_scaling: RopeScaling | None = None,
        attention_backend: str = "auto",
    ) -> None:
        """Build the network; the RoPE scaling is fixed from here on.

        Args:
            config: Sizes and special token ids.
            rope_scaling: Scaling to apply to ``config.rope_theta``; None for none.
            attention_backend: See modeling.attention; resolved at the first forward pass.
        """
        super().__init__(config)
        self.model = LLaDABackbone(config)
        self.resolved_rope: ResolvedRope = resolve_rope(
            rope_scaling or RopeScaling(),
            rope_theta=config.rope_theta,
            head_dim=config.head_dim,
            trained_length=config.max_sequence_length,
        )
        self.attention_backend = attention_backend
        self._built_with_theta = config.rope_theta
        self._attend: Attention | None = None
        self._rotation: Rotation | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.init_std)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.model.transformer["wte"]

    def get_output_embeddings(self) -> nn.Module:
        """Return the prediction head."""
        return self.model.transformer["ff_out"]

    def prepare(self, length: int, device: torch.device) -> None:
        """Choose the attention kernel and build the rotation table ahead of the first pass.

        Otherwise both happen in the first forward pass; torch.compile wants them done before.

        Args:
            length: Longest row to come, in tokens.
            device: The network's device.

        Raises:
            RuntimeError: If config.rope_theta was changed after the network was built.
        """
        if self._attend is None:
            self._attend = choose_attention(self.attention_backend, device)
        if self.config.rope_theta != self._built_with_theta:
            raise RuntimeError(
                f"config.rope_theta was changed from {self._built_with_theta} to "
                f"{self.config.rope_theta} after the network was built, which has no effect on "
                "it. Give rope_scaling=... when loading the model instead."
            )
        table = self._rotation
        if table is None or table[0].shape[0] < length or table[0].device != device:
            with torch.inference_mode(False):  # else a table made while sampling breaks training
                self._rotation = rotation_table(self.resolved_rope, length, device)

    def hidden_states(
        self,
        input_ids_BL: torch.Tensor,
        lengths_B: torch.Tensor | None = None,
        positions_BP: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the blocks and the final norm.

        Args:
            input_ids_BL: int64 [B, L], rows right-padded.
            lengths_B: int64 [B], real tokens a row; None when nothing is padded.
            positions_BP: int64 [B, P], the positions wanted; None for all. The last block's
                queries and MLP are computed for those alone.

        Returns:
            [B, L, M] or [B, P, M]; rows beyond their length hold no meaning.

        Raises:
            RuntimeError: If config.rope_theta was changed after the network was built.
        """
        transformer, length = self.model.transformer, input_ids_BL.shape[1]
        self.prepare(length, input_ids_BL.device)
        assert self._rotation is not None
        assert self._attend is not None
        rotation = (self._rotation[0][:length], self._rotation[1][:length])
        mask = padding_mask(lengths_B, length)
        x_BLM = transformer["wte"](input_ids_BL)
        *blocks, last = cast(nn.ModuleList, transformer["blocks"])
        for block in blocks:
            x_BLM = block(x_BLM, rotation, mask, self._attend)
        return transformer["ln_f"](last(x_BLM, rotation, mask, self._attend, positions_BP))

    def forward(
        self,
        input_ids: torch.Tensor,
        lengths: torch.Tensor | None = None,
        logit_positions: torch.Tensor | None = None,
    ) -> MaskedLMOutput:
        """Predict tokens.

        Args:
            input_ids: int64 [B, L], rows right-padded.
            lengths: int64 [B], real tokens a row; None when nothing is padded.
            logit_positions: int64 [B, P], the positions to give logits for; None for all, which
                at LLaDA's vocabulary takes 8 GB for 32K tokens in 16 bit.

        Returns:
            ``.logits``, [B, P, V] (or [B, L, V]) in the weights' dtype.

        Raises:
            RuntimeError: If config.rope_theta was changed after the network was built.
        """
        x_BLM = self.hidden_states(input_ids, lengths, logit_positions)
        return MaskedLMOutput(logits=self.get_output_embeddings()(x_BLM))

    @torch.inference_mode()
    def logits_at(
        self,
        input_ids_BL: torch.Tensor,
        positions_BP: torch.Tensor,
        lengths_B: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits [B, P, V] at the given positions, without gradients; see forward."""
        return self(input_ids_BL, lengths_B, positions_BP).logits


AutoConfig.register("llada", LLaDAConfig, exist_ok=True)
AutoModel.register(LLaDAConfig, LLaDAForMaskedDiffusion, exist_ok=True)
