"""The base of the native masked diffusion networks: everything but names, sizes and shifts.

transformers conventions (PreTrainedModel), no remote code. Gives hidden states, and logits only
for the positions asked for. It does no sampling, computes no loss and keeps no cache of keys and
values.

Shape suffixes: B batch, L positions, P positions asked for, M hidden size, D head size,
V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from opencompass_llada.modeling.attention import Attention, choose_attention, padding_mask
from opencompass_llada.modeling.block import Attend, Block, RMSNorm, Rotation
from opencompass_llada.modeling.config import BidirectionalConfig
from opencompass_llada.rope import ResolvedRope, resolve_rope, rotation_table
from opencompass_llada.rope_scaling import RopeScaling


class BidirectionalNetwork(PreTrainedModel):
    """A bidirectional transformer with a prediction head.

    A subclass makes the modules under their published names, calls ``post_init`` and answers
    ``blocks``, ``final_norm``, ``get_input_embeddings`` and ``get_output_embeddings``.

    Attributes:
        resolved_rope: The RoPE scaling that the network was built with.
    """

    config_class = BidirectionalConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    logit_shift: ClassVar[int] = 0
    """How many positions before its token a prediction is made; the first tokens, which have
    none before them, are predicted at position 0."""

    def __init__(
        self,
        config: BidirectionalConfig,
        rope_scaling: RopeScaling | None = None,
        attention_backend: str = "auto",
    ) -> None:
        """Fix the RoPE scaling; it cannot change from here on.

        Args:
            config: Sizes and special token ids.
            rope_scaling: Scaling to apply to ``config.rope_theta``; None for none.
            attention_backend: See modeling.attention; resolved at the first forward pass.
        """
        super().__init__(config)
        _refuse_second_multiplier(config, rope_scaling)
        self.resolved_rope: ResolvedRope = resolve_rope(
            rope_scaling or RopeScaling(),
            rope_theta=config.rope_theta,
            head_dim=config.head_dim,
            trained_length=config.trained_length,
        )
        self.attention_backend = attention_backend
        self._built_with_theta = config.rope_theta
        self._attend: Attention | None = None
        self._rotation: Rotation | None = None

    @property
    def rotation_tables(self) -> Rotation | None:
        """Cosine and sine as far as ``prepare`` built them, float32 [L, D]; None before it did."""
        return self._rotation

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks, first to last."""
        raise NotImplementedError

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the head."""
        raise NotImplementedError

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        raise NotImplementedError

    def get_output_embeddings(self) -> nn.Module:
        """Return the prediction head."""
        raise NotImplementedError

    def predicting_positions(self, positions_BP: Tensor) -> Tensor:
        """Return the positions whose states predict the tokens at the given ones.

        With ``logit_shift`` 1, positions 0, 1, 5 give 0, 0, 4.

        Args:
            positions_BP: int64, from 0 in each row.

        Returns:
            int64 of the same shape.
        """
        if self.logit_shift == 0:
            return positions_BP
        return (positions_BP - self.logit_shift).clamp(min=0)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.init_std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)

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
        input_ids_BL: Tensor,
        lengths_B: Tensor | None = None,
        positions_BP: Tensor | None = None,
    ) -> Tensor:
        """Return the states that predict the tokens at the positions.

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
        length = input_ids_BL.shape[1]
        self.prepare(length, input_ids_BL.device)
        assert self._rotation is not None
        assert self._attend is not None
        rotation = (self._rotation[0][:length], self._rotation[1][:length])
        kernel, mask = self._attend, padding_mask(lengths_B, length)

        def attend(q_BHPD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor) -> Tensor:
            return kernel(q_BHPD, k_BGLD, v_BGLD, mask)

        if positions_BP is None and self.logit_shift:
            positions_BP = torch.arange(length, device=input_ids_BL.device).expand_as(input_ids_BL)
        if positions_BP is not None:
            positions_BP = self.predicting_positions(positions_BP)
        x_BLM = self.get_input_embeddings()(input_ids_BL)
        return self.run_blocks(x_BLM, rotation, attend, positions_BP)

    def run_blocks(
        self,
        x_BLM: Tensor,
        rotation: Rotation,
        attend: Attend,
        positions_BP: Tensor | None = None,
    ) -> Tensor:
        """Run the blocks and the final norm.

        Args:
            x_BLM: Embedded tokens.
            rotation: cos and sin of their positions.
            attend: The attention function, with its masks.
            positions_BP: int64, the only positions whose states are wanted, by their place in
                x; None for all. What they predict is ``predicting_positions``'s business.

        Returns:
            [B, L, M] or [B, P, M].
        """
        *blocks, last = self.blocks
        for block in blocks:
            x_BLM = block(x_BLM, rotation, attend)
        return self.final_norm(last(x_BLM, rotation, attend, positions_BP))

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor | None = None,
        logit_positions: Tensor | None = None,
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
        input_ids_BL: Tensor,
        positions_BP: Tensor,
        lengths_B: Tensor | None = None,
    ) -> Tensor:
        """Return logits [B, P, V] at the given positions, without gradients; see forward."""
        return self(input_ids_BL, lengths_B, positions_BP).logits


def _refuse_second_multiplier(config: BidirectionalConfig, scaling: RopeScaling | None) -> None:
    """Refuse a given lambda on a checkpoint that was post-trained with one.

    Its ``rope_theta`` holds that lambda already. A target length beyond the trained one is another
    matter: it is worked out from the checkpoint's own base and length.

    Raises:
        ValueError: If the base would be multiplied twice.
    """
    earlier = getattr(config, "rope_training", None)
    multiplier = getattr(scaling, "theta_multiplier", None) or 1.0
    if earlier and multiplier != 1.0:
        raise ValueError(
            f"rope_scaling: theta_multiplier={multiplier} would multiply the base twice: this "
            f"checkpoint was post-trained with {earlier.get('type')} (theta multiplier "
            f"{earlier.get('theta_multiplier'):.6g}) and its rope_theta={config.rope_theta:.6g} "
            f"holds it. Load it without scaling up to {config.trained_length} tokens, or give a "
            "target_length beyond that."
        )
