"""Dream: its config.json, field by field, and its network, Qwen2's tensors with shifted logits.

Names are the published ones (Dream-org/Dream-v0-Base-7B), which are Qwen2's with a mask.

Registered for ``model_type: Dream``. Queries, keys and values have biases, key/value heads are
shared by groups of query heads, input and output embeddings are separate. The network was made of
an autoregressive one and still predicts at position i the token at i + 1: states and logits asked
for at position p are those computed at p - 1, and position 0 has its own, as in Dream's code. So
callers never see the shift.

Differs from Dream's own code in that cosine and sine stay in float32 where it rounds them to the
weights' dtype; in float32 both are the same.

Source: Dream, arXiv 2508.15487; tensor names and config fields of Dream-org/Dream-v0-Base-7B.
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
