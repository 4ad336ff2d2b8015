"""LLaDA: its config.json, field by field, and its network under the published tensor names.

Names are the published ones (GSAI-ML/LLaDA-8B-Base).

Registered for ``model_type: llada``. No biases, rotary positions over the whole head, separate
input and output embeddings.

Source: LLaDA, arXiv 2502.09992; tensor names and config fields of GSAI-ML/LLaDA-8B-Base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import nn
from transformers import AutoConfig, AutoModel

from opencompass_llada.networks.attention_pattern import FULL, AttentionPattern
from opencompass_llada.networks.config import BidirectionalConfig
from opencompass_llada.networks.transformer import BidirectionalNetwork, Block, BlockParts, RMSNorm
from opencompass_llada.rope.methods import RopeScaling

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
        attention_pattern: AttentionPattern = FULL,
    ) -> None:
        """Build the network; see BidirectionalNetwork.

        Args:
            config: Sizes and special token ids.
            rope_scaling: Scaling to apply to ``config.rope_theta``; None for none.
            attention_backend: See networks.attention; resolved at the first forward pass.
            attention_pattern: Who sees whom in a row.
        """
        super().__init__(config, rope_scaling, attention_backend, attention_pattern)
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
