"""Runs the native networks: one bidirectional transformer, but for its tensors' names and sizes.

Pre-norm, RMSNorm, rotary positions, grouped heads, a gated SiLU MLP; no sampling, loss or cache.
Shape suffixes: B batch, L positions (keys), P positions asked for (queries), M hidden size, H query
heads, G key/value heads, D head size, I inner channels of the MLP, V vocabulary entries.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from opencompass_llada.networks.attention import attend_with, find_kernel
from opencompass_llada.networks.attention_pattern import CAUSAL, FULL, AttentionPattern
from opencompass_llada.networks.config import BidirectionalConfig, NetworkDimensions
from opencompass_llada.networks.declared_rope import declared_frequencies
from opencompass_llada.networks.experts import SparseMLP
from opencompass_llada.rope.frequencies import ResolvedRope
from opencompass_llada.rope.methods import RopeScaling, resolve_rope
from opencompass_llada.rope.rotation import apply_rotary, rotation_table

logger = logging.getLogger(__name__)

Rotation = tuple[Tensor, Tensor]
"""cos and sin, float32 [L, D], or [B, 1, P, D] where rows have positions of their own."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(queries_BHPD, keys_BGLD, values_BGLD) -> out_BHPD``; masks are bound in it."""

T = TypeVar("T")


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, scaled in the input's dtype (as LLaDA's and Qwen2's)."""

    def __init__(self, size: int, eps: float) -> None:
        """Create the scale of ``size`` channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_BLM: Tensor) -> Tensor:
        """Normalise the last dimension."""
        x32_BLM = x_BLM.float()
        scale_BL1 = torch.rsqrt(x32_BLM.square().mean(-1, keepdim=True) + self.eps)
        # Training may keep float32 scales beside 16-bit states; evaluation has one dtype for both.
        return self.weight.to(x_BLM.dtype) * (x32_BLM * scale_BL1).to(x_BLM.dtype)


class BlockParts(NamedTuple, Generic[T]):
    """The modules of a block, or their published names, by what they do; None for what it lacks."""

    attention_norm: T
    query: T | None
    key: T | None
    value: T | None
    attention_out: T
    mlp_norm: T
    gate: T | None
    """Of the dense MLP, as `up` and `down`; beside experts, of the one that all tokens use."""
    up: T | None
    down: T | None
    query_norm: T | None = None
    """Of each head, as `key_norm`."""
    key_norm: T | None = None
    query_key_value: T | None = None
    """One product in place of the three."""
    sparse: T | None = None
    """The MLP's router and experts."""


class NetworkNames(NamedTuple):
    """The published names of a network's modules, with dots."""

    embedding: str
    blocks: str
    final_norm: str
    head: str
    block: BlockParts[str]
    sparse_block: BlockParts[str] | None = None
    """Of layers with experts."""

    def of_layers(self, shape: NetworkDimensions) -> list[BlockParts[str]]:
        """Return the names of each layer's block, first to last."""
        if shape.experts is None or self.sparse_block is None:
            return [self.block] * shape.num_layers
        sparse = self.sparse_block
        if shape.experts.shared_width == 0:
            sparse = sparse._replace(gate=None, up=None, down=None)
        return [
            sparse if has_experts else self.block for has_experts in shape.experts.sparse_layers
        ]


LLAMA_NAMES = NetworkNames(
    embedding="model.embed_tokens",
    blocks="model.layers",
    final_norm="model.norm",
    head="lm_head",
    block=BlockParts(
        attention_norm="input_layernorm",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        attention_out="self_attn.o_proj",
        mlp_norm="post_attention_layernorm",
        gate="mlp.gate_proj",
        up="mlp.up_proj",
        down="mlp.down_proj",
    ),
)
"""Those of transformers' LLaMA and Qwen2, which most networks build on."""

QK_NORMED_BLOCK = LLAMA_NAMES.block._replace(
    query_norm="self_attn.q_norm", key_norm="self_attn.k_norm"
)
"""A block's as transformers' Qwen3 has them."""


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    *folders, last = name.split(".")
    for folder in folders:
        if not hasattr(root, folder):
            root.add_module(folder, nn.Module())
        root = getattr(root, folder)
    root.add_module(last, module)


class Block(nn.Module):
    """One block."""

    def __init__(self, shape: NetworkDimensions, names: BlockParts[str]) -> None:
        """Make the modules under their names."""
        super().__init__()
        self.head_dim = shape.head_dim
        self._names = names
        queries, keys = (shape.head_dim * n for n in (shape.num_heads, shape.num_groups))
        self.widths = queries, keys, keys
        """Channels of queries, keys and values, in which order one product gives them."""
        width, inner = shape.width, shape.mlp_width
        if names.sparse is not None:  # first, since the shared expert may lie within
            assert shape.experts is not None, "a sparse layer's experts have sizes"
            inner = shape.experts.shared_width
            _place(self, names.sparse, SparseMLP(width, shape.experts))
        norm = functools.partial(RMSNorm, eps=shape.norm_eps)
        linear = functools.partial(nn.Linear, bias=False)
        attention_in = functools.partial(nn.Linear, width, bias=shape.has_qkv_bias)
        makers: BlockParts[Callable[[], nn.Module]] = BlockParts(
            attention_norm=lambda: norm(width),
            query=lambda: attention_in(queries),
            key=lambda: attention_in(keys),
            value=lambda: attention_in(keys),
            query_key_value=lambda: attention_in(sum(self.widths)),
            attention_out=lambda: linear(queries, width),
            mlp_norm=lambda: norm(width),
            gate=lambda: linear(width, inner),
            up=lambda: linear(width, inner),
            down=lambda: linear(inner, width),
            query_norm=lambda: norm(shape.head_dim),
            key_norm=lambda: norm(shape.head_dim),
        )
        for name, make in zip(names, makers, strict=True):
            if name is not None and make is not None:
                _place(self, name, make())

    @property
    def parts(self) -> BlockParts[nn.Module]:
        """The modules, looked up anew each time, since adapters replace them."""
        found = (None if name is None else self.get_submodule(name) for name in self._names)
        return BlockParts(*found)  # type: ignore[arg-type]

    def replace_part(self, part: str, module: nn.Module) -> None:
        """Put another module in a part's place, by its name in `BlockParts`."""
        self.set_submodule(getattr(self._names, part), module)

    def forward(
        self, x_BLM: Tensor, rotation: Rotation, attend: Attend, positions_BP: Tensor | None = None
    ) -> Tensor:
        """Add attention and MLP to the residual stream; see `BidirectionalNetwork.run_blocks`."""
        q_BHPD, k_BGLD, v_BGLD = self.attention_inputs(x_BLM, rotation, positions_BP)
        if positions_BP is not None:
            x_BLM = take(x_BLM, positions_BP)
        return self.add_mlp(self.add_attention(x_BLM, attend(q_BHPD, k_BGLD, v_BGLD)))

    def attention_inputs(
        self, x_BLM: Tensor, rotation: Rotation, positions_BP: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, H, P, D] of the positions asked for, keys and values of all."""
        h_BLM = self._run("attention_norm", x_BLM)
        if self._names.query_key_value is not None:
            q, k, v = self._run("query_key_value", h_BLM).split(self.widths, dim=-1)
            q = q if positions_BP is None else take(q, positions_BP)
        else:
            k, v = self._run("key", h_BLM), self._run("value", h_BLM)
            q = self._run("query", h_BLM if positions_BP is None else take(h_BLM, positions_BP))
        q_BHPD, k_BGLD, v_BGLD = map(self._heads, (q, k, v))
        k_BGLD = apply_rotary(self._run("key_norm", k_BGLD), *rotation)
        if positions_BP is not None:
            rotation = rotation_at(rotation, positions_BP)
        return apply_rotary(self._run("query_norm", q_BHPD), *rotation), k_BGLD, v_BGLD

    def add_attention(self, x_BPM: Tensor, out_BHPD: Tensor) -> Tensor:
        """Add the attention's output, all heads together, to the residual stream."""
        return x_BPM + self._run("attention_out", out_BHPD.transpose(1, 2).flatten(-2))

    def add_mlp(self, x_BPM: Tensor) -> Tensor:
        """Add the gated MLP of the normalised states, or experts, to the residual stream."""
        if self._names.sparse is None:
            return x_BPM + self._run("down", self.inner_states(x_BPM))
        h_BPM = self._run("mlp_norm", x_BPM)
        out_BPM = self._run("sparse", h_BPM)
        if self._names.down is not None:
            out_BPM = out_BPM + self._run("down", _gated(*self._gates(h_BPM)))
        return x_BPM + out_BPM

    def inner_states(self, x_BPM: Tensor) -> Tensor:
        """Return the dense MLP's inner states of the residual stream."""
        return _gated(*self.gates(x_BPM))

    def gates(self, x_BPM: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the dense MLP's first two products make of the residual stream."""
        return self._gates(self._run("mlp_norm", x_BPM))

    def add_gated(self, x_BPM: Tensor, gate_BPI: Tensor, up_BPI: Tensor) -> Tensor:
        """Add the dense MLP to the residual stream, from what `gates` gave."""
        return x_BPM + self._run("down", _gated(gate_BPI, up_BPI))

    def _gates(self, h_BPM: Tensor) -> tuple[Tensor, Tensor]:
        return self._run("gate", h_BPM), self._run("up", h_BPM)

    def _run(self, part: str, x: Tensor) -> Tensor:
        """Apply a part by its name in `BlockParts`; nothing where the network has none."""
        name = getattr(self._names, part)
        return x if name is None else self.get_submodule(name)(x)

    def _heads(self, x_BLM: Tensor) -> Tensor:
        return x_BLM.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def _gated(gate_BPI: Tensor, up_BPI: Tensor) -> Tensor:
    return F.silu(gate_BPI) * up_BPI


def take(x_BLM: Tensor, positions_BP: Tensor) -> Tensor:
    """Return x at each row's own positions, [B, P, M]."""
    return x_BLM.gather(1, positions_BP[..., None].expand(-1, -1, x_BLM.shape[-1]))


def rotation_at(rotation: Rotation, positions_BP: Tensor) -> Rotation:
    """Return cos and sin [B, 1, P, D] at each row's own positions of a table [L, D]."""
    cos_LD, sin_LD = rotation
    return cos_LD[positions_BP][:, None], sin_LD[positions_BP][:, None]


class TiedHead(nn.Module):
    """A prediction head whose weights are the token embedding's."""

    def __init__(self, embedding: nn.Module) -> None:
        """Take the embedding, whose weights may be replaced later."""
        super().__init__()
        self.embedding = embedding

    @property
    def weight(self) -> Tensor:
        """The embedding's, [V, M]."""
        return cast(Tensor, self.embedding.weight)

    def forward(self, x_BLM: Tensor) -> Tensor:
        """Return logits [B, L, V]."""
        return F.linear(x_BLM, self.weight)


class BidirectionalNetwork(PreTrainedModel):
    """A transformer with a prediction head; a subclass states ``config_class`` and ``names``."""

    config_class = BidirectionalConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _no_split_modules = ("Block",)

    names: ClassVar[NetworkNames]
    logit_shift: ClassVar[int] = 0
    """How many positions before its token a prediction is made; the first tokens, which have
    none before them, are predicted at position 0."""

    def __init__(
        self,
        config: BidirectionalConfig,
        rope_scaling: RopeScaling | None = None,
        attention_backend: str = "auto",
        attention_pattern: AttentionPattern | None = None,
    ) -> None:
        """Make the modules, and fix the RoPE scaling; it cannot change from here on.

        The attention pattern is that of the config unless another is given.
        """
        super().__init__(config)
        self.attention_pattern = attention_pattern or config.attention_pattern
        self.resolved_rope = _resolve_rope(
            config, rope_scaling or RopeScaling(), self.attention_pattern
        )
        self.attention_backend = attention_backend
        self._built_with_theta = config.rope_theta
        self._kernel: str | None = None
        self._table: Rotation | None = None
        shape, names = config.shape, self.names
        _place(self, names.embedding, nn.Embedding(shape.vocabulary, shape.width))
        blocks = [Block(shape, own) for own in names.of_layers(shape)]
        _place(self, names.blocks, nn.ModuleList(blocks))
        _place(self, names.final_norm, RMSNorm(shape.width, shape.norm_eps))
        if shape.ties_embeddings:  # in a tuple, lest its weight have two names
            self._tied_head = (TiedHead(self.get_input_embeddings()),)
        else:
            _place(self, names.head, nn.Linear(shape.width, shape.vocabulary, bias=False))
        self.post_init()

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks, first to last."""
        return cast("Sequence[Block]", self.get_submodule(self.names.blocks))

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the head."""
        return self.get_submodule(self.names.final_norm)

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.get_submodule(self.names.embedding)

    def get_output_embeddings(self) -> nn.Module:
        """Return the prediction head."""
        if self.config.ties_embeddings:
            embedding = self.get_input_embeddings()
            if self._tied_head[0].embedding is not embedding:  # replaced, as an adapter's is
                self._tied_head = (TiedHead(embedding),)
            return self._tied_head[0]
        return self.get_submodule(self.names.head)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: a tied head reads the embedding's weights."""

    def predicting_positions(self, positions_BP: Tensor) -> Tensor:
        """Return whose states predict the given tokens: 0, 1, 5 give 0, 0, 4 by a shift of 1."""
        return (positions_BP - self.logit_shift).clamp(min=0) if self.logit_shift else positions_BP

    def prepare(self, length: int, device: torch.device) -> Rotation:
        """Choose the kernel and return cos and sin, before the first pass for torch.compile."""
        if self._table is None:
            self._kernel = find_kernel(self.attention_backend, device)
            logger.info("Attention backend %s on %s", self.attention_backend, device)
        if self.config.rope_theta != self._built_with_theta:
            raise RuntimeError(
                f"config.rope_theta was changed from {self._built_with_theta} to "
                f"{self.config.rope_theta} after the network was built, which has no effect on "
                "it. Give rope_scaling=... when loading the model instead."
            )
        table = self._table
        if table is None or table[0].shape[0] < length or table[0].device != device:
            with torch.inference_mode(False):  # else a table made while sampling breaks training
                table = self._table = rotation_table(self.resolved_rope, length, device)
        return table

    def hidden_states(
        self,
        input_ids_BL: Tensor,
        lengths_B: Tensor | None = None,
        positions_BP: Tensor | None = None,
    ) -> Tensor:
        """Return the states that `forward` gives to the head, [B, L, M] or [B, P, M]."""
        length = input_ids_BL.shape[1]
        cos_LD, sin_LD = self.prepare(length, input_ids_BL.device)
        rotation = cos_LD[:length], sin_LD[:length]
        pattern, device = self.attention_pattern, input_ids_BL.device
        is_causal = pattern == CAUSAL  # padding comes after all that is read
        mask = None if is_causal else pattern.batch_mask(lengths_B, length, device)
        attend = functools.partial(attend_with, self._kernel, mask=mask, is_causal=is_causal)
        if positions_BP is None and self.logit_shift:
            positions_BP = torch.arange(length, device=device).expand_as(input_ids_BL)
        if positions_BP is not None:
            positions_BP = self.predicting_positions(positions_BP)
        x_BLM = self.get_input_embeddings()(input_ids_BL)
        if positions_BP is None or pattern.sees_all(length):
            return self.run_blocks(x_BLM, rotation, attend, positions_BP)
        # The mask is of all queries, and so the last block runs for all of them, too.
        return take(self.run_blocks(x_BLM, rotation, attend), positions_BP)

    def run_blocks(
        self, x_BLM: Tensor, rotation: Rotation, attend: Attend, positions_BP: Tensor | None = None
    ) -> Tensor:
        """Run the blocks, the last for the positions given alone, and the final norm."""
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
        """Return ``.logits``, [B, P, V] or [B, L, V], in the weights' dtype.

        Args:
            input_ids: int64 [B, L], rows right-padded.
            lengths: int64 [B], real tokens a row; None when nothing is padded.
            logit_positions: int64 [B, P], the positions to give logits for; None for all, which
                at LLaDA's vocabulary takes 8 GB for 32K tokens in 16 bit.
        """
        x_BLM = self.hidden_states(input_ids, lengths, logit_positions)
        return MaskedLMOutput(logits=self.get_output_embeddings()(x_BLM))

    @torch.inference_mode()
    def logits_at(
        self, input_ids_BL: Tensor, positions_BP: Tensor, lengths_B: Tensor | None = None
    ) -> Tensor:
        """Return logits [B, P, V] at the given positions, without gradients; see forward."""
        return self(input_ids_BL, lengths_B, positions_BP).logits


NETWORKS: dict[str, type[BidirectionalNetwork]] = {}
"""The native networks by the ``model_type`` of config.json."""

OTHER_TYPES: dict[str, str] = {}
"""What else published files call a network, by type or architecture -> its ``model_type``."""


def register_network(network: type[BidirectionalNetwork]) -> None:
    """Enter a network, by its config's ``model_type``, here and with transformers' Auto classes."""
    config = network.config_class
    NETWORKS[config.model_type] = network
    OTHER_TYPES.update(dict.fromkeys(config.also_called, str(config.model_type)))
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, network, exist_ok=True)


def _resolve_rope(
    config: BidirectionalConfig, scaling: RopeScaling, pattern: AttentionPattern
) -> ResolvedRope:
    """Work out the frequencies: of the scaling given, or of one that config.json declares."""
    if pattern != FULL:
        scaling.refuse_one_sided("a block-causal model")
    _refuse_second_multiplier(config, scaling)
    declared, rotated_dim = config.declared_rope, config.shape.rotated_dim
    if not declared.is_scaled:
        return resolve_rope(
            scaling,
            rope_theta=config.rope_theta,
            head_dim=rotated_dim,
            trained_length=config.trained_length,
        )
    if scaling.type != "none":
        raise ValueError(
            f"rope_scaling {scaling.type!r}: config.json scales by {declared.rope_type} already. "
            "Use type='none', which obeys config.json, or take rope_scaling out of it."
        )
    frequencies_D, factor = declared_frequencies(declared, rotated_dim // 2, config)
    reached = int(config.trained_length * declared.options.get("factor", 1.0))
    return ResolvedRope(
        method=f"{declared.rope_type} of config.json",
        rope_theta=config.rope_theta,
        trained_length=config.trained_length,
        longest_context=max(reached, config.max_position_embeddings),
        inverse_frequencies_D=frequencies_D,
        attention_factor=factor,
    )


def _refuse_second_multiplier(config: BidirectionalConfig, scaling: RopeScaling) -> None:
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
