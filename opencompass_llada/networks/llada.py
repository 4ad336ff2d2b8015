"""Describes LLaDA's network: the fields of its config.json, and the names of its tensors.

Both are the published ones (arXiv 2502.09992; GSAI-ML/LLaDA-8B-Base). iLLaDA (arXiv 2606.25331) is
the same network with grouped heads, another vocabulary and tied embeddings.
"""

from __future__ import annotations

from typing import ClassVar

from opencompass_llada.networks.config import BidirectionalConfig
from opencompass_llada.networks.transformer import (
    BidirectionalNetwork,
    BlockParts,
    NetworkNames,
    register_network,
)


class LLaDAConfig(BidirectionalConfig):
    """Configuration of a LLaDA network, in the fields of the published config.json."""

    model_type: ClassVar[str] = "llada"
    published_by = "LLaDA-8B"
    default_theta = 500000.0
    # What transformers calls them, and this package with it.
    attribute_map = {
        "initializer_range": "init_std",
        "max_position_embeddings": "max_sequence_length",
    }
    optional = frozenset({"init_std", "mlp_ratio", "weight_tying"})
    implemented = {
        "block_type": ("llama",),
        "layer_norm_type": ("rms",),
        "activation_type": ("silu",),
        "block_group_size": (1,),
        **dict.fromkeys(("rope", "rope_full_precision", "layer_norm_with_affine"), (True,)),
        **dict.fromkeys(("alibi", "include_bias", "attention_layer_norm"), (False,)),
        **dict.fromkeys(("input_emb_norm", "scale_logits"), (False,)),
        **dict.fromkeys(("include_qkv_bias", "bias_for_layer_norm"), (False, None)),
        **dict.fromkeys(("attention_dropout", "embedding_dropout", "residual_dropout"), (0, 0.0)),
        # The last three are fields of what it is converted from and to; off is what it does.
        **dict.fromkeys(("multi_query_attention", "attention_bias"), (False, None)),
        **dict.fromkeys(("mlp_bias", "use_sliding_window"), (False, None)),
    }
    # LLaDA's own code ties by weight_tying, and does not read tie_word_embeddings.
    without_effect = frozenset(
        """
        init_device init_fn init_cutoff_factor precision alibi_bias_max flash_attention
        attention_layer_norm_with_affine tie_word_embeddings rope_training
        """.split()  # noqa: SIM905
    )

    sizes = {
        "width": "d_model",
        "num_heads": "n_heads",
        "num_groups": "n_kv_heads",
        "mlp_width": "mlp_hidden_size",
        "num_layers": "n_layers",
        "vocabulary": "embedding_size",
        "norm_eps": "rms_norm_eps",
    }

    d_model: int = 4096
    n_heads: int = 32
    n_kv_heads: int | None = None
    """None for as many as query heads."""
    n_layers: int = 32
    mlp_hidden_size: int | None = 12288
    """None for mlp_ratio * d_model."""
    mlp_ratio: float = 4
    weight_tying: bool = False
    """Whether the token embedding is the prediction head, as in iLLaDA."""
    vocab_size: int = 126464
    embedding_size: int | None = None
    """None for vocab_size."""
    max_sequence_length: int = 4096
    """Trained length in tokens."""
    rms_norm_eps: float = 1e-5
    init_std: float = 0.02
    mask_token_id: int = 126336
    eos_token_id: int = 126081
    pad_token_id: int | None = 126081

    def complete(self) -> None:
        """Fill in what is None."""
        super().complete()
        if self.mlp_hidden_size is None:
            self.mlp_hidden_size = int(self.mlp_ratio * self.d_model)
        self.embedding_size = self.embedding_size or self.vocab_size

    @property
    def ties_embeddings(self) -> bool:
        """Whether the prediction head is the token embedding."""
        return self.weight_tying


class LLaDAForMaskedDiffusion(BidirectionalNetwork):
    """LLaDA with its prediction head; its ``ff_proj`` is the gate."""

    config_class = LLaDAConfig
    names = NetworkNames(
        embedding="model.transformer.wte",
        blocks="model.transformer.blocks",
        final_norm="model.transformer.ln_f",
        head="model.transformer.ff_out",
        block=BlockParts(
            attention_norm="attn_norm",
            query="q_proj",
            key="k_proj",
            value="v_proj",
            attention_out="attn_out",
            mlp_norm="ff_norm",
            gate="ff_proj",
            up="up_proj",
            down="ff_out",
        ),
    )


register_network(LLaDAForMaskedDiffusion)
