"""Reads the config.json of the native networks, which must say all that a network is made of.

Nothing in it may change the computation and not be known here. RoPE is scaled on loading instead.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import transformers
from transformers import PretrainedConfig

from opencompass_llada.networks.attention_pattern import FULL, AttentionPattern
from opencompass_llada.networks.declared_rope import (
    ROPE_FIELDS,
    DeclaredRope,
    read_declared_rope,
)
from opencompass_llada.networks.experts import STRIDE, ExpertDimensions
from opencompass_llada.options import check_value
from opencompass_llada.weight_files import CheckpointError

#: transformers' own fields (either major) that say nothing about a network's forward pass.
_BOOKKEEPING = frozenset(
    """
    _name_or_path _attn_implementation _attn_implementation_autoset _commit_hash
    attn_implementation architectures auto_map model_type torch_dtype dtype transformers_version
    use_cache use_bfloat16 torchscript return_dict return_dict_in_generate output_attentions
    output_hidden_states output_scores problem_type id2label label2id num_labels finetuning_task
    task_specific_params tokenizer_class prefix pruned_heads tf_legacy_loss chunk_size_feed_forward
    add_cross_attention cross_attention_hidden_size is_decoder is_encoder_decoder
    tie_encoder_decoder decoder_start_token_id bos_token_id sep_token_id
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id
    forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens
    """.split()  # noqa: SIM905 (a list of fifty words is shorter to read so)
)

#: Kinds of RoPE that a config.json may declare and the native networks compute.
_OBEYED = ("default", "linear", "yarn", "longrope", "llama3")


@dataclass(frozen=True, kw_only=True)
class NetworkDimensions:
    """A network's sizes, whatever its config.json calls them."""

    width: int
    num_heads: int
    num_groups: int
    """Key/value heads."""
    mlp_width: int
    num_layers: int
    vocabulary: int
    """Rows of the embedding."""
    norm_eps: float
    head_dim: int
    """Channels of a head."""
    rotated_dim: int
    """Channels of a head that RoPE turns, its first ones."""
    has_qkv_bias: bool
    has_qk_norm: bool
    """Whether queries and keys are normalised head by head, before RoPE."""
    ties_embeddings: bool
    """Whether the prediction head is the token embedding."""
    experts: ExpertDimensions | None = None
    """Sizes of its sparse layers, where it has any."""

    @property
    def query_width(self) -> int:
        """Channels of all query heads."""
        return self.head_dim * self.num_heads

    @property
    def kv_width(self) -> int:
        """Channels of all key heads, or value heads."""
        return self.head_dim * self.num_groups


class BidirectionalConfig(PretrainedConfig):
    """Base of the native networks' configurations; a subclass annotates its published fields."""

    implemented: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Published fields whose value must be one of these: what the network does."""
    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Fields that the family's own code ignores, or reads for training alone."""
    optional: ClassVar[frozenset[str]] = frozenset({"initializer_range"})
    """Fields that a config.json may leave out, as it may those whose type has None."""
    sizes: ClassVar[Mapping[str, str]] = {
        "width": "hidden_size",
        "num_heads": "num_attention_heads",
        "num_groups": "num_key_value_heads",
        "mlp_width": "intermediate_size",
        "num_layers": "num_hidden_layers",
        "vocabulary": "vocab_size",
        "norm_eps": "rms_norm_eps",
    }
    """The sizes of `NetworkDimensions` -> the published fields that hold them."""
    expert_sizes: ClassVar[Mapping[str, str]] = {}
    """The sizes of `ExpertDimensions` -> the published fields that hold them."""
    also_called: ClassVar[tuple[str, ...]] = ()
    """Other values of ``model_type``, and architectures, that published files of it have."""
    has_qkv_bias: ClassVar[bool] = False
    has_qk_norm: ClassVar[bool] = False
    published_by: ClassVar[str] = ""
    """The checkpoints that the family's networks read, for messages."""
    default_theta: ClassVar[float] = 10000.0
    """RoPE's base in a network made from scratch."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Leave ``__init__`` as it is; transformers 5 would write one of its own."""
        cls.__init__ = cls.__init__  # type: ignore[method-assign]
        super().__init_subclass__(**kwargs)

    def __init__(self, **fields: Any) -> None:
        """Check every field of a config.json, and that they fit together."""
        declared = self._take_rope(fields)
        self._refuse_unimplemented(fields)
        names = self.published_fields().keys() - {"rope_theta"}
        own = {name: fields.pop(name, getattr(type(self), name)) for name in names}
        # transformers 4 ties the output to the input embeddings unless it is told not to.
        fields["tie_word_embeddings"] = own.get("tie_word_embeddings", False)
        # A kernel of another code's (SDAR's flex_attention), which transformers would ask us for.
        for name in ("attn_implementation", "_attn_implementation"):
            fields.pop(name, None)
        special = {name: own[name] for name in ("eos_token_id", "pad_token_id")}
        super().__init__(**special, **fields)
        for name, value in own.items():
            setattr(self, name, value)
        self.rope_theta = self.default_theta if declared.theta is None else declared.theta
        if declared.is_scaled:  # transformers 5 knows it by the second name alone
            scaling = {"rope_type": declared.rope_type, **declared.options}
            is_old = transformers.__version__.startswith("4.")
            setattr(self, "rope_scaling" if is_old else "rope_parameters", scaling)
        self.complete()
        self._check_sizes()
        if declared.rotated_share not in (None, self.rotated_share):
            raise ValueError(
                f"config.json: partial_rotary_factor={declared.rotated_share} is not implemented; "
                f"{self.published_by} turns {self.rotated_share:.0%} of each head. Use a "
                "checkpoint of that family."
            )

    def complete(self) -> None:
        """Fill in the fields that others imply: as many key/value heads as query heads."""
        groups = self.sizes["num_groups"]
        if getattr(self, groups) is None:
            setattr(self, groups, getattr(self, self.sizes["num_heads"]))

    @classmethod
    def published_fields(cls) -> dict[str, Any]:
        """Return the types of the fields that sizes and special tokens stand in."""
        classes = cls.__mro__[: cls.__mro__.index(BidirectionalConfig)]
        found: dict[str, Any] = {}
        for each in reversed(classes):
            found |= inspect.get_annotations(each, eval_str=True)
        own = {k: kind for k, kind in found.items() if typing.get_origin(kind) is not ClassVar}
        return {**own, "rope_theta": float}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Check and take the fields of a config.json; ``kwargs`` as in transformers."""
        cls.check_fields(config_dict)
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def check_fields(cls, fields: Mapping[str, Any]) -> None:
        """Refuse a config.json that lacks a field, or has one that is not known or not finite."""
        if fault := next(cls._faults(fields), None):
            raise CheckpointError(f"config.json{fault}")

    @classmethod
    def _faults(cls, fields: Mapping[str, Any]) -> Iterator[str]:
        """Yield each rule that a config.json breaks, with its remedy."""
        published = cls.published_fields()
        given = {name for name, value in fields.items() if value is not None}
        declared = read_declared_rope(fields).get("")
        # By kind of layer (None) it is refused where the network is made, as every other scaling.
        has_theta = declared is None or declared.theta is not None
        present = given | {"rope_theta"} if has_theta else given
        needed = {k for k, kind in published.items() if type(None) not in typing.get_args(kind)}
        if missing := [name for name in published if name in needed - cls.optional - present]:
            yield (
                f" has no {', '.join(missing)}; every checkpoint of the format of "
                f"{cls.published_by} says it, and a default would be a guess. Take config.json "
                "from where the weights come from."
            )
        numbers = {name: v for name, v in fields.items() if isinstance(v, float)}
        if odd := [f"{name}={v!r}" for name, v in numbers.items() if not math.isfinite(v)]:
            yield f": {', '.join(odd)} must be finite. Fetch it again."
        for name, kind in published.items():
            if name in given and (rule := _broken_rule(name, fields[name], kind)):
                yield f": {rule}. Take config.json from where the weights come from."
        known = {*published, *cls.implemented, *cls.without_effect, *ROPE_FIELDS, *_BOOKKEEPING}
        if unknown := sorted(given - known):
            named = ", ".join(f"{name}={fields[name]!r}" for name in unknown)
            yield (
                f": {named} is not implemented, and may change what the network "
                f"computes; {cls.published_by} has no such field. If it changes nothing, take it "
                "out of config.json; otherwise use a checkpoint of that family."
            )

    @property
    def shape(self) -> NetworkDimensions:
        """The network's sizes."""
        found = {size: getattr(self, field) for size, field in self.sizes.items()}
        head_dim = found.setdefault("head_dim", found["width"] // found["num_heads"])
        return NetworkDimensions(
            **found,
            rotated_dim=int(head_dim * self.rotated_share),
            has_qkv_bias=self.has_qkv_bias,
            has_qk_norm=self.has_qk_norm,
            ties_embeddings=self.ties_embeddings,
            experts=self.experts,
        )

    @property
    def experts(self) -> ExpertDimensions | None:
        """Sizes and routing rule of the layers with experts; None for a dense network."""
        return None

    @property
    def ties_embeddings(self) -> bool:
        """Whether the prediction head is the token embedding."""
        return self.tie_word_embeddings

    @property
    def declared_rope(self) -> DeclaredRope:
        """RoPE as config.json declares it."""
        return read_declared_rope({name: getattr(self, name, None) for name in ROPE_FIELDS})[""]

    @property
    def rotated_share(self) -> float:
        """Share of each head's channels that RoPE turns."""
        return 1.0

    @property
    def attention_pattern(self) -> AttentionPattern:
        """Who sees whom; block-causal networks read their block length from config.json."""
        return FULL

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.shape.head_dim

    @property
    def trained_length(self) -> int:
        """Tokens that the checkpoint was trained on, from which RoPE scaling counts."""
        original = self.declared_rope.options.get("original_max_position_embeddings")
        return original or self.max_position_embeddings

    @property
    def length_field(self) -> str:
        """The published field that holds the trained length."""
        return self.attribute_map.get("max_position_embeddings", "max_position_embeddings")

    def _take_rope(self, fields: dict[str, Any]) -> DeclaredRope:
        """Take out the fields that declare RoPE; a form that is not computed here is refused."""
        found = {name: fields.pop(name) for name in ROPE_FIELDS if name in fields}
        declared = read_declared_rope(found).get("")
        if declared is None or declared.rope_type not in _OBEYED:
            name = "rope_scaling" if found.get("rope_scaling") else "rope_parameters"
            raise ValueError(
                f"config.json: {name}={found.get(name)!r} is not implemented; the network of "
                f"{self.published_by} obeys {', '.join(_OBEYED)} there. Give another scaling when "
                "loading, as rope_scaling=dict(type=..., ...), not in config.json."
            )
        return declared

    def _refuse_unimplemented(self, given: Mapping[str, Any]) -> None:
        for name, values in self.implemented.items():
            if name in given and given[name] not in values:
                raise ValueError(
                    f"config.json: {name}={given[name]!r} is not implemented; this network "
                    f"supports {' or '.join(map(repr, values))} (the value of "
                    f"{self.published_by}). Use a checkpoint of that family."
                )

    def _check_sizes(self) -> None:
        width, heads, groups = (self.sizes[key] for key in ("width", "num_heads", "num_groups"))
        pairs = [(heads, groups)] if "head_dim" in self.sizes else [(width, heads), (heads, groups)]
        for name, divisor in pairs:
            number, least = getattr(self, name), getattr(self, divisor)
            if number % least:
                raise ValueError(
                    f"config.json: {name}={number} must be a multiple of {divisor}={least}."
                )
        if self.experts is not None:
            self._check_experts(self.experts)
        size = self.sizes["vocabulary"]
        last = getattr(self, size) - 1
        for name in ("mask_token_id", "eos_token_id"):
            if not 0 <= getattr(self, name) <= last:
                raise ValueError(
                    f"config.json: {name}={getattr(self, name)} must be in 0 .. {size}-1={last}. "
                    "Set it to the id that the tokenizer gives."
                )

    def _check_experts(self, experts: ExpertDimensions) -> None:
        """Check that the experts' sizes fit together, and the products of all at once."""
        name = {"num_groups": "1 group", "groups_used": "1", **self.expert_sizes}
        groups, used = experts.num_groups, experts.groups_used
        size, rest = divmod(experts.number, groups)
        strided = ((name["width"], experts.width), (self.sizes["width"], self.shape.width))
        rules = [
            (
                rest == 0 and (groups == 1 or size > 1),
                f"{name['number']}={experts.number} must be a multiple of {name['num_groups']}="
                f"{groups}, and twice as much at least",
            ),
            (used <= groups, f"{name['groups_used']}={used} must be at most {groups}, all groups"),
            (
                experts.per_token <= used * size,
                f"{name['per_token']}={experts.per_token} must be at most {used * size}, the "
                "experts that are open to a token",
            ),
            *(
                (value % STRIDE == 0, f"{field}={value} must be a multiple of {STRIDE}")
                for field, value in strided
            ),
        ]
        if broken := next((rule for holds, rule in rules if not holds), None):
            raise ValueError(
                f"config.json: {broken}. Take config.json from where the weights come from."
            )


def _broken_rule(name: str, given: Any, kind: Any) -> str:
    """Return what a field's type or its least value asks for and the value is not; '' for none."""
    try:
        value = check_value(name, given, kind)
    except ValueError as error:
        return str(error).partition("; ")[0]  # what helps an option is no help here
    if isinstance(value, bool):
        return ""
    lowest = int(not name.endswith(("_token_id", "_dense_replace")))
    if isinstance(value, int) and value < lowest and name != "pad_token_id":
        return f"{name}={value} must be at least {lowest}"
    is_above_0 = not isinstance(value, float) or value > 0
    return "" if is_above_0 else f"{name}={value} must be above 0"
