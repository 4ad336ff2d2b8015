"""Dream's config.json, field by field; what the network does not implement is refused by name.

Names are the published ones (Dream-org/Dream-v0-Base-7B), which are Qwen2's with a mask.
"""

from __future__ import annotations

from typing import Any, ClassVar

from opencompass_llada.modeling.config import BidirectionalConfig

TRAINED_LENGTH = 2048
"""Tokens that Dream-v0 was trained on (LongLLaDA, arXiv 2506.14429; Dream's README)."""

_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_dropout": (0, 0.0),
    "mlp_bias": (False, None),
    "tie_word_embeddings": (False,),
    "use_sliding_window": (False,),
    "use_mrope": (False, None),
    "attention_bias": (True, None),  # of queries, keys and values, as Qwen2 has it
}


class DreamConfig(BidirectionalConfig):
    """Configuration of a Dream network, in the fields of the published config.json."""

    model_type: ClassVar[str] = "Dream"
    implemented = _IMPLEMENTED
    # Read where use_sliding_window is true, which is refused.
    without_effect = frozenset({"sliding_window", "max_window_layers", "rope_training"})
    required = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("vocab_size", "max_position_embeddings", "rope_theta", "rms_norm_eps"),
        *("mask_token_id", "eos_token_id"),
    )
    published_by = "Dream-v0-7B"

    def __init__(
        self,
        *,
        hidden_size: int = 3584,
        intermediate_size: int = 18944,
        num_hidden_layers: int = 28,
        num_attention_heads: int = 28,
        num_key_value_heads: int | None = 4,
        vocab_size: int = 152064,
        max_position_embeddings: int = 131072,
        rope_theta: float | None = None,
        rms_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        mask_token_id: int = 151666,
        eos_token_id: int = 151643,
        pad_token_id: int | None = 151643,
        **kwargs: Any,
    ) -> None:
        """Take the published fields; check shapes and refuse what is not implemented.

        Args:
            hidden_size: Hidden size; a multiple of the heads.
            intermediate_size: Width of the gated MLP.
            num_hidden_layers: Blocks.
            num_attention_heads: Query heads.
            num_key_value_heads: Key/value heads; None for as many as query heads.
            vocab_size: Rows of the embedding, more than the tokenizer has entries.
            max_position_embeddings: Inherited from Qwen2.5; not what Dream was trained on.
            rope_theta: RoPE base; None for Dream-v0's 1,000,000, in a network made from scratch.
            rms_norm_eps: Added to the mean square in RMSNorm.
            initializer_range: Standard deviation of freshly initialised weights.
            mask_token_id: The mask.
            eos_token_id: End of sequence.
            pad_token_id: Padding.
            **kwargs: Other published fields; those in ``implemented`` are checked, the rest kept.

        Raises:
            ValueError: For a field value that the network does not implement, or sizes that do
                not fit together.
        """
        self._refuse_unimplemented(kwargs)
        rope_theta = self._take_theta(kwargs, rope_theta)
        # transformers 4 ties the output to the input embeddings unless it is told not to.
        kwargs["tie_word_embeddings"] = False
        super().__init__(eos_token_id=eos_token_id, pad_token_id=pad_token_id, **kwargs)
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.rope_theta = 1000000.0 if rope_theta is None else rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.mask_token_id = mask_token_id
        self._check_multiple("hidden_size", "num_attention_heads")
        self._check_multiple("num_attention_heads", "num_key_value_heads")
        self._check_token_id("mask_token_id", "vocab_size")
        self._check_token_id("eos_token_id", "vocab_size")

    @property
    def head_dim(self) -> int:
        """Head size in channels."""
        return self.hidden_size // self.num_attention_heads

    @property
    def trained_length(self) -> int:
        """Tokens that Dream was trained on: 2,048, whatever ``max_position_embeddings`` says.

        A checkpoint trained further keeps the same config.json; its length is given as
        ``rope_scaling=dict(..., trained_length=...)``.
        """
        return min(TRAINED_LENGTH, self.max_position_embeddings)

    @property
    def init_std(self) -> float:
        """Standard deviation of freshly initialised weights: ``initializer_range``."""
        return self.initializer_range
