"""Holds the training recipe: every choice of a run, checked completely before anything loads.

docs/reference/recipe.md says what each key does. Pydantic checks single values by their
annotations; what concerns several is checked below the classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from opencompass_llada.networks import LLaDAConfig
from opencompass_llada.options import reject_unknown
from opencompass_llada.rope.methods import parse_rope_scaling
from opencompass_llada.synthetic.embedded import SEED

_STRICT_VALUE = ConfigDict(strict=True, allow_inf_nan=False)
STRICT = ConfigDict(**_STRICT_VALUE, extra="forbid")
# What a value may be, with the words that an error has for it.
Text = Annotated[
    str, Field(pattern="^[^\\x00]+$", description="text of at least one letter, without NUL")
]
Folder = Annotated[str, Field(pattern="^[^\\x00]+$", description="name a folder: checkpoints/mine")]
Whole = Annotated[int, Field(ge=1, description="a whole number from 1")]
WholeOrZero = Annotated[int, Field(ge=0, description="a whole number from 0")]
#: Of things that are made one by one: a typing error must not fill the memory.
Count = Annotated[int, Field(ge=1, le=1_000_000, description="a whole number from 1 to 1,000,000")]
CountOrZero = Annotated[
    int, Field(ge=0, le=1_000_000, description="a whole number from 0 to 1,000,000")
]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="a whole number from 0 to 2**63 - 1")]
Flag = Annotated[bool, Field(description="true or false")]
Positive = Annotated[float, Field(gt=0, description="a number above 0")]
NotNegative = Annotated[float, Field(ge=0, description="a number from 0")]
Share = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]
Inside = Annotated[float, Field(gt=0, lt=1, description="a number above 0 and below 1")]
_EVEN = "an even whole number from 4 to 10,000"
_Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[_Beta, _Beta], Field(description="two numbers from 0 to below 1")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Chat:
    """How prompts are rendered: the wrapper's ``chat`` (`prompting.chat.ChatOptions`)."""

    template: Text | None = None
    system: Text | None = None
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextSource:
    """Text to train on: files, a data set, or generated documents."""

    paths: tuple[Text, ...] = ()
    dataset: Text | None = None
    dataset_config: Text | None = None
    split: Text = "train"
    generated_seed: Seed | None = None
    num_documents: CountOrZero = 0
    text_field: Text = "text"
    prompt_field: Text | None = None
    chat: Chat | None = None
    answer_end: Text | None = None
    weight: Positive | None = None

    def __post_init__(self) -> None:
        """Require exactly one kind of source."""
        kinds = ("paths", "dataset", "generated_seed")
        given = [name for name in kinds if getattr(self, name) not in ((), None)]
        if len(given) != 1:
            raise ValueError(
                "text source: give exactly one of paths, dataset and generated_seed; got "
                f"{' and '.join(given) or 'none'}."
            )
        if self.generated_seed is not None and self.num_documents < 1:
            raise ValueError(
                f"text source: num_documents={self.num_documents} must be at least 1 with "
                "generated_seed."
            )
        if self.paths and self.num_documents:
            raise ValueError(
                f"text source: num_documents={self.num_documents} has no effect with paths, whose "
                "files are read whole; leave it out, or name fewer files."
            )
        if self.prompt_field is None:
            for name in ("chat", "answer_end"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"text source: {name} is of prompts with answers and has no effect without "
                        "prompt_field; leave it out, or name the field of the prompts."
                    )
        if self.generated_seed == SEED:
            raise ValueError(
                f"text source: generated_seed={SEED} makes the embedded haystack, which models are "
                "evaluated on; use another seed."
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AnswerPadding:
    """How many trained end tokens follow an answer's own; exactly one of the fields is given."""

    tokens: Count | None = None
    """As many behind every answer."""
    multiple_of: Whole | None = None
    """Until the sample's length, its prompt included, is a multiple of this."""
    to_length: Whole | None = None
    """Until the sample has this many tokens; a longer one gets none."""
    batch_of: Count | None = None
    """Until all samples of a group have the length of its longest: random groups of this many, the
    same in every epoch."""

    def __post_init__(self) -> None:
        """Require exactly one rule."""
        names = [field.name for field in dataclasses.fields(type(self))]
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"answer_padding: give exactly one of {', '.join(names)}; got "
                f"{' and '.join(given) or 'none'}."
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Phase:
    """A stretch of training at one row length."""

    sequence_length: Whole
    num_steps: Whole
    rows_per_step: Count
    continuation_share: Share | None = None
    block_length: Whole | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Lora:
    """Low-rank adapters (arXiv 2106.09685) on linear layers, and what is trained whole."""

    rank: Whole = 64
    alpha: Positive = 128.0
    target_modules: tuple[Text, ...] | None = None
    train: tuple[Literal["norms", "embeddings", "head"], ...] = ("norms",)
    save: Literal["merged", "adapter", "both"] = "both"
    frozen_precision: Literal["float8"] | None = None

    def __post_init__(self) -> None:
        """Refuse adapters of nothing."""
        if self.target_modules == ():
            raise ValueError("lora: target_modules=[] must name at least one linear layer.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """What is measured during training, on text never trained on."""

    text: TextSource | None = None
    lengths: tuple[Whole, ...] = ()
    target_tokens: Count = 64
    num_texts: Count = 8
    draws: Annotated[int, Field(ge=4, le=10_000, multiple_of=2, description=_EVEN)] = 8
    final_draws: Annotated[int, Field(ge=4, le=10_000, multiple_of=2, description=_EVEN)] = 32
    retrieval_lengths: tuple[Whole, ...] = ()
    retrieval_rows: CountOrZero = 128

    def __post_init__(self) -> None:
        """Refuse lengths that leave nothing before the target."""
        if bool(self.lengths) != (self.text is not None):
            raise ValueError("evaluation: give text and lengths together, or neither.")
        shortest = min(self.lengths, default=self.target_tokens)
        if shortest < self.target_tokens:
            raise ValueError(
                f"evaluation: lengths must be at least target_tokens={self.target_tokens}, "
                f"got {shortest}."
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """Everything that a training run needs."""

    output_dir: Folder
    text: tuple[TextSource, ...]
    phases: tuple[Phase, ...]
    init_from: Text | None = None
    rope_scaling: Mapping[str, Any] | None = None
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vocab_size: Count | None = None
    objective: Literal["masked_diffusion", "block_diffusion", "autoregressive"] = "masked_diffusion"
    block_length: Whole | None = None
    strategy: Annotated[
        str, Field(description="windows, adaptive, eod, direct or the dotted path of a strategy")
    ] = "windows"
    restart_positions: bool = False
    max_document_tokens: Whole | None = None
    answer_padding: AnswerPadding | None = None
    long_samples: Literal["error", "skip"] = "error"
    cache_dir: Text | None = None
    continuation_share: Share = 0.0
    random_length_share: Share = 0.0
    retrieval_share: Share = 0.0
    retrieval_masked_everywhere: Share = 0.25
    rows: Text = "opencompass_llada.tiny_models.retrieval.RetrievalRows"
    retrieval_styles: Mapping[str, NotNegative] | None = None
    loss_weight: Literal["inverse_t", "none"] = "inverse_t"
    normalize_by: Literal["row", "sample"] | None = None
    mask_ratios: Literal["low_discrepancy", "uniform"] = "low_discrepancy"
    min_mask_ratio: Inside = 1e-3
    learning_rate: Positive = 3e-3
    warmup_steps: WholeOrZero = 200
    weight_decay: NotNegative = 0.1
    betas: Betas = (0.9, 0.95)
    clip_norm: Positive = 1.0
    ema_decay: Inside | None = None
    lora: Lora | None = None
    parameter_dtype: Literal["float32", "bfloat16"] = "float32"
    moments: Literal["float32", "bfloat16", "8bit"] = "float32"
    offload_average: bool = False
    micro_rows: Count | None = None
    sequence_parallel: Whole = 1
    activation_checkpointing: bool = False
    keep_attention: bool = False
    keep_projections: bool = False
    keep_mlp: CountOrZero = 0
    offload_checkpoints: bool = False
    mlp_tile: Whole | None = None
    loss_chunk: Whole = 32768
    compile: bool = False
    memory_limit: Positive | None = None
    host_memory_limit: Positive | None = None
    seed: Seed = 0
    tokenizing_processes: Annotated[
        int | None, Field(ge=1, le=1024, description="a whole number from 1 to 1024")
    ] = None
    num_workers: Annotated[
        int, Field(ge=0, le=1024, description="a whole number from 0 to 1024")
    ] = 0
    log_every: Whole = 100
    probe_every: Whole = 1000
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    keep_last: Whole = 2
    resume: bool = True
    tensorboard: bool = False
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    time_limit: Positive | None = None

    def __post_init__(self) -> None:
        """Check everything that needs no file and no device."""
        if not self.text or not self.phases:
            raise ValueError("recipe: text and phases need at least one entry each.")
        if self.model:
            _check_sizes(self)
        _check_start(self)
        _check_combinations(self)

    @property
    def trained_length(self) -> int:
        """Row length of the longest phase, in tokens."""
        return max(phase.sequence_length for phase in self.phases)

    def block_length_of(self, phase: Phase) -> int | None:
        """Return the tokens of a block in a phase; None but for block diffusion."""
        return phase.block_length or self.block_length

    @property
    def final_block_length(self) -> int | None:
        """The block length of the last phase, which the checkpoint has; see `block_length_of`."""
        return self.block_length_of(self.phases[-1])

    @property
    def has_samples(self) -> bool:
        """Whether a source has prompts with answers."""
        return any(source.prompt_field is not None for source in self.text)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.num_steps for phase in self.phases)


#: Scalings that a checkpoint can carry: they change the base alone, or nothing.
TRAINED_SCALINGS = ("none", "ntk", "diffusion_ntk")
#: LLaDA's name of a size -> that of Llama and SDAR, whose networks of the same shape are trained by
#: the autoregressive objective and by block diffusion.
LLAMA_NAMES = {
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "n_layers": "num_hidden_layers",
    "mlp_hidden_size": "intermediate_size",
    "rms_norm_eps": "rms_norm_eps",
    "init_std": "initializer_range",
    "rope_theta": "rope_theta",
}
#: Sizes that are no whole numbers, that may be null, and what the trainer sets itself.
_FLAGS = ("weight_tying",)
_REAL = ("rope_theta", "rms_norm_eps", "init_std", "mlp_ratio")
_MAY_BE_NONE = ("n_kv_heads", "mlp_hidden_size")
_SET_BY_TRAINER = (
    *("vocab_size", "embedding_size", "max_sequence_length"),
    *("mask_token_id", "eos_token_id", "pad_token_id"),
)
#: What the small autoregressive twin alone takes.
_OF_THE_TWIN = {
    "strategy": "windows",
    "rope_scaling": None,
    "lora": None,
    "continuation_share": 0.0,
    "random_length_share": 0.0,
    "sequence_parallel": 1,
    "activation_checkpointing": False,
    "mlp_tile": None,
}


def _check_start(recipe: Recipe) -> None:
    """Check the scaling, and that the run starts from a checkpoint or from sizes, not both."""
    try:
        scaling = parse_rope_scaling(recipe.rope_scaling).type
    except ValueError as error:
        raise ValueError(f"recipe: rope_scaling={recipe.rope_scaling!r}: {error}") from error
    if scaling not in TRAINED_SCALINGS:
        raise ValueError(
            f"recipe: rope_scaling {scaling!r} changes more than RoPE's base, which "
            "config.json cannot say to other loaders; train with "
            f"{', '.join(TRAINED_SCALINGS)}."
        )
    from_scratch = recipe.init_from is None
    if not from_scratch and (recipe.model or recipe.vocab_size is not None):
        raise ValueError(
            "recipe: init_from brings its own sizes and tokenizer; leave model and vocab_size out."
        )
    if from_scratch and (not recipe.model or recipe.vocab_size is None):
        raise ValueError(
            "recipe: give init_from (a checkpoint to post-train), or model and vocab_size "
            "for a network from scratch."
        )
    if recipe.objective == "block_diffusion":
        try:
            parse_rope_scaling(recipe.rope_scaling).refuse_one_sided("a block-causal model")
        except ValueError as error:
            raise ValueError(f"recipe: {error}") from error
    if from_scratch and recipe.lora is not None and recipe.lora.save == "adapter":
        raise ValueError(
            "recipe: lora.save='adapter' writes what is added to a checkpoint, and needs init_from."
        )
    if from_scratch and recipe.lora is not None and recipe.lora.frozen_precision is not None:
        raise ValueError(
            f"recipe: lora.frozen_precision={recipe.lora.frozen_precision!r} rounds a checkpoint's "
            "weights, which stay the ones that adapters are merged into; it needs init_from."
        )
    if from_scratch and recipe.rope_scaling is not None:
        raise ValueError(
            "recipe: rope_scaling changes a checkpoint's RoPE and needs init_from; a "
            "network from scratch takes model.rope_theta."
        )


def _check_sizes(recipe: Recipe) -> None:
    """Refuse sizes that make no network; the special tokens come later."""
    sizes = recipe.model
    known = LLaDAConfig.published_fields().keys()
    reject_unknown("model key", sizes, known - {*_SET_BY_TRAINER})
    if recipe.objective != "masked_diffusion":
        reject_unknown(f"model key of objective={recipe.objective!r}", sizes, LLAMA_NAMES)
    for name, value in sizes.items():
        kind: Any = Flag if name in _FLAGS else Positive if name in _REAL else Whole
        if value is not None or name not in _MAY_BE_NONE:
            try:
                TypeAdapter(kind, config=_STRICT_VALUE).validate_python(value)
            except ValidationError:
                rule = kind.__metadata__[0].description
                raise ValueError(f"recipe model: {name}={value!r} must be {rule}.") from None
    try:
        head = LLaDAConfig(**sizes, mask_token_id=0, eos_token_id=0).head_dim
    except (ValueError, ZeroDivisionError) as error:
        reason = str(error).removeprefix("config.json: ")
        raise ValueError(f"recipe model: {reason}") from error
    if head % 2:
        raise ValueError(
            f"recipe model: d_model / n_heads={head} must be even, since RoPE turns pairs."
        )


def _check_blocks(recipe: Recipe) -> None:
    """Check the block lengths, which block diffusion needs and nothing else takes."""
    is_block_diffusion = recipe.objective == "block_diffusion"
    for phase in recipe.phases:
        block, length = recipe.block_length_of(phase), phase.sequence_length
        if not is_block_diffusion and block is not None:
            raise ValueError(
                f"recipe: block_length={block} has no effect with objective={recipe.objective!r}; "
                "leave it out, or give objective=block_diffusion."
            )
        if is_block_diffusion and block is None:
            raise ValueError(
                "recipe: objective='block_diffusion' needs block_length, the tokens of a block, in "
                "the recipe or in every phase: block_length=4, as SDAR."
            )
        if block is not None and length % block:
            raise ValueError(
                f"recipe phases: sequence_length={length} must be a multiple of "
                f"block_length={block}; use {max(1, length // block) * block}."
            )
    names = ("keep_attention", "keep_projections", "keep_mlp")
    kept = [f"{name}={getattr(recipe, name)}".lower() for name in names if getattr(recipe, name)]
    if is_block_diffusion and kept:
        raise ValueError(
            f"recipe: objective='block_diffusion' does not work with {', '.join(kept)}: its "
            "attention (FlexAttention) is computed again in the backward pass; leave "
            f"{'it' if len(kept) == 1 else 'them'} out."
        )


def _check_samples(recipe: Recipe) -> None:
    """Check the keys of prompts with answers, and those that would cut one."""
    for name, without in (("answer_padding", None), ("long_samples", "error")):
        if getattr(recipe, name) != without and not recipe.has_samples:
            raise ValueError(
                f"recipe: {name} is of prompts with answers and has no effect without a "
                "prompt_field in text; leave it out."
            )
    if not recipe.has_samples:
        return
    shares = [recipe.continuation_share, *(p.continuation_share for p in recipe.phases)]
    for name, given in (
        ("continuation_share", max(filter(None, shares), default=0.0)),
        ("random_length_share", recipe.random_length_share),
    ):
        if given:
            raise ValueError(
                f"recipe: {name}={given} is of plain text, and text has a prompt_field, whose "
                "answers are masked whole; leave it out."
            )
    padding, shortest = recipe.answer_padding, min(p.sequence_length for p in recipe.phases)
    for name in ("multiple_of", "to_length"):
        if padding is not None and (getattr(padding, name) or 0) > shortest:
            raise ValueError(
                f"recipe: answer_padding.{name}={getattr(padding, name)} must be at most "
                f"sequence_length={shortest}, the tokens of a row."
            )
    if padding is not None and (padding.tokens or 0) >= shortest:
        raise ValueError(
            f"recipe: answer_padding.tokens={padding.tokens} must be at most {shortest - 1}, since "
            f"a row has sequence_length={shortest} tokens, one of them a sample's at least."
        )


#: The largest second beta of 8-bit moments: the noise of rounding, 3.5 % of a second moment, is
#: averaged over 1 / (1 - beta2) steps, and adds up to a quarter of it here.
LARGEST_BETA_IN_8_BIT = 0.99


def _check_precision(recipe: Recipe) -> None:
    if recipe.moments == "8bit" and recipe.betas[1] > LARGEST_BETA_IN_8_BIT:
        raise ValueError(
            f"recipe: moments='8bit' with betas={list(recipe.betas)}: the second must be at most "
            f"{LARGEST_BETA_IN_8_BIT}, or rounding outweighs the moments. Use moments=bfloat16."
        )
    if recipe.offload_average and recipe.ema_decay is None:
        raise ValueError(
            "recipe: offload_average=true keeps the moving average on the host; it needs ema_decay."
        )


def _check_combinations(recipe: Recipe) -> None:
    _check_blocks(recipe)
    _check_samples(recipe)
    if recipe.objective == "autoregressive":
        for name, needed in _OF_THE_TWIN.items():
            if getattr(recipe, name) != needed:
                raise ValueError(
                    f"recipe: {name}={getattr(recipe, name)!r} does not work with "
                    f"objective='autoregressive', which is the small twin; it takes {needed!r}."
                )
        if recipe.has_samples or recipe.normalize_by == "sample":
            name = "prompt_field" if recipe.has_samples else "normalize_by='sample'"
            raise ValueError(
                f"recipe: {name} does not work with objective='autoregressive', which is the small "
                "twin and takes plain text; leave it out."
            )
        if any(phase.continuation_share for phase in recipe.phases):
            raise ValueError(
                "recipe phases: continuation_share does not work with objective='autoregressive', "
                "which is the small twin; leave it out."
            )
    _check_precision(recipe)
    for name in ("offload_checkpoints", "keep_attention"):
        if getattr(recipe, name) and not recipe.activation_checkpointing:
            raise ValueError(
                f"recipe: {name}=true says what activation checkpoints keep and where; it needs "
                "activation_checkpointing=true."
            )
    if recipe.keep_projections and (recipe.offload_checkpoints or not recipe.keep_attention):
        wrong = f"keep_attention={recipe.keep_attention}".lower()
        wrong = "offload_checkpoints=true" if recipe.offload_checkpoints else wrong
        raise ValueError(
            "recipe: keep_projections=true keeps on the device what goes into attention, beside "
            f"what comes out, and does not work with {wrong}. Set keep_attention=true and leave "
            "offload_checkpoints out."
        )
    if recipe.keep_mlp and (recipe.mlp_tile is not None or not recipe.keep_projections):
        wrong = f"keep_projections={recipe.keep_projections}".lower()
        wrong = wrong if recipe.mlp_tile is None else f"mlp_tile={recipe.mlp_tile}"
        raise ValueError(
            f"recipe: keep_mlp={recipe.keep_mlp} keeps tensors of the MLP in so many blocks, and "
            f"does not work with {wrong}. Set keep_projections=true and leave mlp_tile out."
        )
    for phase in recipe.phases:
        if phase.sequence_length % recipe.sequence_parallel:
            raise ValueError(
                f"recipe phases: sequence_length={phase.sequence_length} must be a multiple of "
                f"sequence_parallel={recipe.sequence_parallel}."
            )
