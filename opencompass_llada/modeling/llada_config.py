"""LLaDA's config.json, field by field; what the network does not implement is refused by name.

Names are the published ones (GSAI-ML/LLaDA-8B-Base).
"""

from __future__ import annotations

from typing import Any, ClassVar

from opencompass_llada.modeling.config import BidirectionalConfig

_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "layer_norm_type": ("rms",),
    "activation_type": ("silu",),
    "alibi": (False,),
    "rope": (True,),
    "rope_full_precision": (True,),
    "include_bias": (False,),
    "include_qkv_bias": (False, None),
    "bias_for_layer_norm": (False, None),
    "layer_norm_with_affine": (True,),
    "attention_layer_norm": (False,),
    "input_emb_norm": (False,),
    "scale_logits": (False,),
    "weight_tying": (False,),
    "multi_query_attention": (False, None),
    "block_group_size": (1,),
    "attention_dropout": (0, 0.0),
    "embedding_dropout": (0, 0.0),
    "residual_dropout": (0, 0.0),
    # No fields of LLaDA's, but of what it is converted from and to; off is what the network does.
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
}
#: How fresh weights are drawn, where they are made, ALiBi's and the norms' numbers while both are
#: off, an attention kernel; tie_word_embeddings, which LLaDA's own code does not read (it ties by
#: weight_tying); and what this package's training writes down.
_WITHOUT_EFFECT = frozenset(
    (
        *("init_device", "init_fn", "init_cutoff_factor", "precision", "alibi_bias_max"),
        *("flash_attention", "attention_layer_norm_with_affine", "tie_word_embeddings"),
        "rope_training",
    )
)


class LLaDAConfig(BidirectionalConfig):
    """Configuration of a LLaDA network, in the fields of the published config.json."""

    model_type: ClassVar[str] = "llada"
    implemented = _IMPLEMENTED
    without_effect = _WITHOUT_EFFECT
    required = (
        *("d_model", "n_heads", "n_layers", "vocab_size", "max_sequence_length"),
        *("rope_theta", "rms_norm_eps", "mask_token_id", "eos_token_id"),
    )
    published_by = "LLaDA-8B"

    def __init__(
        self,
        *,
        d_model: int = 4096,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        n_layers: int = 32,
        mlp_hidden_size: int | None = 12288,
        mlp_ratio: float = 4,
        vocab_size: int = 126464,
        embedding_size: int | None = None,
        max_sequence_length: int = 4096,
        rope_theta: float | None = None,
        rms_norm_eps: float = 1e-5,
        init_std: float = 0.02,
        mask_token_id: int = 126336,
        eos_token_id: int = 126081,
        pad_token_id: int | None = 126081,
        **kwargs: Any,
    ) -> None:
        """Take the published fields; check shapes and refuse what is not implemented.

        Args:
            d_model: Hidden size.
            n_heads: Query heads; d_model is a multiple of it.
            n_kv_heads: Key/value heads; None for as many as query heads.
            n_layers: Blocks.
            mlp_hidden_size: Width of the gated MLP; None for mlp_ratio * d_model.
            mlp_ratio: Read where mlp_hidden_size is None.
            vocab_size: Entries of the tokenizer.
            embedding_size: Rows of the embedding (None: vocab_size).
            max_sequence_length: Trained length in tokens.
            rope_theta: RoPE base; None for LLaDA-8B's 500,000, in a network made from scratch.
            rms_norm_eps: Added to the mean square in RMSNorm.
            init_std: Standard deviation of freshly initialised weights.
            mask_token_id: The mask.
            eos_token_id: End of sequence.
            pad_token_id: Padding.
            **kwargs: Other published fields; those in ``implemented`` are checked, the rest kept.

        Raises:
            ValueError: For a field value that the network does not implement, or sizes that do
                not fit together.
        """
        # transformers 4 ties the output to the input embeddings unless it is told not to.
        kwargs["tie_word_embeddings"] = False
        rope_theta = self._take_theta(kwargs, rope_theta)
        super().__init__(eos_token_id=eos_token_id, pad_token_id=pad_token_id, **kwargs)
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        self.n_layers = n_layers
        self.mlp_ratio = mlp_ratio
        self.mlp_hidden_size = (
            int(mlp_ratio * d_model) if mlp_hidden_size is None else mlp_hidden_size
        )
        self.vocab_size = vocab_size
        self.embedding_size = vocab_size if embedding_size is None else embedding_size
        self.max_sequence_length = max_sequence_length
        self.rope_theta = 500000.0 if rope_theta is None else rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.init_std = init_std
        self.mask_token_id = mask_token_id
        self._refuse_unimplemented(kwargs)
        self._check_multiple("d_model", "n_heads")
        self._check_multiple("n_heads", "n_kv_heads")
        self._check_token_id("mask_token_id", "embedding_size")
        self._check_token_id("eos_token_id", "embedding_size")

    @property
    def head_dim(self) -> int:
        """Head size in channels."""
        return self.d_model // self.n_heads

    @property
    def trained_length(self) -> int:
        """Tokens that the checkpoint was trained on: ``max_sequence_length``."""
        return self.max_sequence_length
