"""The training recipe: every choice of a run, checked completely before anything loads.

Holds no code that trains and reads no files (finetune.recipe_file does); every field says what it
does.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencompass_llada.finetune.networks import LLAMA_NAMES
from opencompass_llada.finetune.recipe_parts import (
    SHORTEST_ROW,
    Evaluation,
    Lora,
    Phase,
    TextSource,
)
from opencompass_llada.finetune.styles import STYLES
from opencompass_llada.modeling import LLaDAConfig
from opencompass_llada.options import reject_unknown, unknown_name_message
from opencompass_llada.rope_scaling import parse_rope_scaling

CHOICES = {
    "objective": ("masked_diffusion", "autoregressive"),
    "strategy": ("windows", "adaptive", "eod", "direct"),
    "loss_weight": ("inverse_t", "none"),
    "mask_ratios": ("low_discrepancy", "uniform"),
    "dtype": ("bfloat16", "float16", "float32"),
    "parameter_dtype": ("float32", "bfloat16"),
}
#: Scalings that a checkpoint can carry: they change the base alone, or nothing.
TRAINED_SCALINGS = ("none", "ntk", "diffusion_ntk")
#: Field -> smallest whole number; None is allowed where the default is None.
_LOWEST = {
    "vocab_size": 1,
    "log_every": 1,
    "probe_every": 1,
    "warmup_steps": 0,
    "num_workers": 0,
    "keep_last": 1,
    "micro_rows": 1,
    "max_document_tokens": 1,
    "mlp_tile": 1,
    "loss_chunk": 1,
    "sequence_parallel": 1,
}
#: Field -> whether it must be above 0 (else from 0).
_NUMBERS = {
    "learning_rate": True,
    "clip_norm": True,
    "weight_decay": False,
    "min_mask_ratio": False,
    "retrieval_share": False,
    "retrieval_masked_everywhere": False,
    "time_limit": True,
    "memory_limit": True,
    "ema_decay": True,
}
#: Fields of the network's config that the trainer sets itself.
_SET_BY_TRAINER = (
    *("vocab_size", "embedding_size", "max_sequence_length"),
    *("mask_token_id", "eos_token_id", "pad_token_id"),
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a training run needs.

    Attributes:
        output_dir: Folder of checkpoints, logs and the final checkpoint.
        text: Where the text comes from.
        phases: Row lengths and steps, in order; the longest is the trained length.
        init_from: Checkpoint to post-train: a folder, a hub id or ``asset:NAME``. None for fresh
            weights of ``model``'s sizes and a tokenizer of ``vocab_size`` entries trained on the
            text.
        rope_scaling: Scaling of the checkpoint's RoPE, as configs of models take it; None for
            ``diffusion_ntk`` for the trained length where that is above the checkpoint's, else
            none.
        model: Sizes in the names of LLaDA's config.json; special token ids come from the tokenizer.
        vocab_size: Entries of the byte-level BPE tokenizer that is trained on the text.
        objective: ``masked_diffusion`` trains a LLaDA, ``autoregressive`` a Llama of the same shape
            on the same rows.
        strategy: How rows are made of text (UltraLLaDA's three, and one more): ``adaptive`` packs
            documents that attend to themselves alone, ``eod`` joins them by an end-of-document
            token under full attention, ``direct`` joins them by nothing; ``windows`` takes random
            windows of ``eod``'s text.
        restart_positions: Count positions from 0 in every document (adaptive, eod, direct).
        max_document_tokens: Longest document allowed, an error above; None for any. Documents
            longer than a row are cut into consecutive windows.
        cache_dir: Folder of tokenised text; None for the user's cache folder, ``none`` to keep
            nothing on disk.
        retrieval_share: Share of rows that hold needles and questions (0 to 1).
        retrieval_masked_everywhere: Share of those rows that are masked like plain text.
        retrieval_styles: Share of each style among the retrieval rows, relative to the others.
        loss_weight: ``inverse_t`` is the likelihood bound's weight, ``none`` leaves it out
            (UltraLLaDA's Eq. 1 as transcribed).
        mask_ratios: ``low_discrepancy`` spreads t evenly over the rows of a step, ``uniform`` draws
            each by itself.
        min_mask_ratio: Smallest mask ratio t that is drawn.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Steps of linear warm-up; cosine decay to a tenth follows.
        weight_decay: On matrices; norms and embeddings have none.
        betas: AdamW's.
        clip_norm: Largest gradient norm.
        ema_decay: Decay of the exponential moving average whose weights are written and measured;
            None for the weights themselves.
        lora: Train adapters (and norms) instead of all weights.
        parameter_dtype: Of the trained weights and of AdamW's moments. Frozen weights are bfloat16
            on CUDA.
        micro_rows: Rows that one device works on at a time; the rest of its rows are accumulated.
            None for all at once.
        sequence_parallel: Devices that share each row (Ulysses); data are split over the others.
        activation_checkpointing: Keep one activation a block and compute the rest again.
        offload_checkpoints: Keep those on the host.
        mlp_tile: Positions of a row that the MLP works on at a time; None for all.
        loss_chunk: Masked positions whose logits exist at a time.
        compile: torch.compile (CUDA).
        memory_limit: GB of a device that the plan may use; None for what the device has.
        seed: Of weights, rows and masks.
        num_workers: Processes that make rows; 0 makes them in the training process.
        log_every: Steps between log lines.
        probe_every: Steps between evaluations; the checkpoint is written at each.
        evaluation: What is measured then.
        keep_last: Checkpoints kept, beside the best.
        resume: Go on from the last checkpoint in output_dir; false refuses a folder that has one.
        tensorboard: Write TensorBoard logs, too.
        dtype: Of the weights in the checkpoint files.
        time_limit: Seconds after which training ends whatever step it is at, the learning rate
            having decayed as if that were the last; None for no limit. A run that the limit cut
            short cannot be repeated exactly.
    """

    output_dir: str
    text: tuple[TextSource, ...]
    phases: tuple[Phase, ...]
    init_from: str | None = None
    rope_scaling: Mapping[str, Any] | None = None
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vocab_size: int | None = None
    objective: str = "masked_diffusion"
    strategy: str = "windows"
    restart_positions: bool = False
    max_document_tokens: int | None = None
    cache_dir: str | None = None
    retrieval_share: float = 0.0
    retrieval_masked_everywhere: float = 0.25
    retrieval_styles: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(STYLES))
    loss_weight: str = "inverse_t"
    mask_ratios: str = "low_discrepancy"
    min_mask_ratio: float = 0.1
    learning_rate: float = 3e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    ema_decay: float | None = None
    lora: Lora | None = None
    parameter_dtype: str = "float32"
    micro_rows: int | None = None
    sequence_parallel: int = 1
    activation_checkpointing: bool = False
    offload_checkpoints: bool = False
    mlp_tile: int | None = None
    loss_chunk: int = 32768
    compile: bool = False
    memory_limit: float | None = None
    seed: int = 0
    num_workers: int = 0
    log_every: int = 100
    probe_every: int = 1000
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    keep_last: int = 2
    resume: bool = True
    tensorboard: bool = False
    dtype: str = "bfloat16"
    time_limit: float | None = None

    def __post_init__(self) -> None:
        """Check everything that needs no file and no device."""
        self._check_numbers()
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    "recipe: " + unknown_name_message(name, str(getattr(self, name)), allowed)
                )
        for name in ("retrieval_share", "retrieval_masked_everywhere"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"recipe: {name}={getattr(self, name)} must be from 0 to 1.")
        for name in ("min_mask_ratio", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"recipe: {name}={value} must be above 0 and below 1.")
        for item in dataclasses.fields(self):
            if item.type == "bool" and not isinstance(getattr(self, item.name), bool):
                raise ValueError(
                    f"recipe: {item.name}={getattr(self, item.name)!r} must be true or false."
                )
        if not self.text or not self.phases:
            raise ValueError("recipe: text and phases need at least one entry each.")
        self._check_styles()
        self._check_start()
        self._check_combinations()

    def _check_numbers(self) -> None:
        defaults = {item.name: item.default for item in dataclasses.fields(self)}
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if value is None and defaults[name] is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(f"recipe: {name}={value!r} must be a whole number from {lowest}.")
        for name, positive in _NUMBERS.items():
            value = getattr(self, name)
            if value is None and defaults[name] is None:
                continue
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(
                    f"recipe: {name}={value!r} must be a number from 0 (YAML takes 3e-3 for text: "
                    "write 3.0e-3)."
                )
            if positive and value == 0:
                raise ValueError(f"recipe: {name}={value!r} must be above 0.")
        betas = self.betas
        pair = isinstance(betas, tuple) and len(betas) == 2
        if not pair or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in betas):
            raise ValueError(f"recipe: betas={betas!r} must be two numbers from 0 to below 1.")

    def _check_styles(self) -> None:
        styles = self.retrieval_styles
        if not isinstance(styles, Mapping):
            raise ValueError(f"recipe: retrieval_styles={styles!r} must map styles to shares.")
        reject_unknown("retrieval style", styles, STYLES)
        shares = list(styles.values())
        if not all(isinstance(n, int | float) and n >= 0 for n in shares) or not sum(shares) > 0:
            raise ValueError(
                f"recipe: retrieval_styles={dict(styles)!r} must map styles to shares from 0, one "
                "of them above 0."
            )
        shortest = min(phase.sequence_length for phase in self.phases)
        if self.retrieval_share and shortest < SHORTEST_ROW:
            raise ValueError(
                f"recipe phases: sequence_length={shortest} must be at least {SHORTEST_ROW}, which "
                "retrieval rows need."
            )

    def _check_start(self) -> None:
        known = inspect.signature(LLaDAConfig.__init__).parameters.keys()
        reject_unknown("model key", self.model, known - {"self", "kwargs", *_SET_BY_TRAINER})
        if self.objective == "autoregressive":
            reject_unknown("model key of the autoregressive objective", self.model, LLAMA_NAMES)
        scaling = parse_rope_scaling(self.rope_scaling).type
        if scaling not in TRAINED_SCALINGS:
            raise ValueError(
                f"recipe: rope_scaling {scaling!r} changes more than RoPE's base, which "
                "config.json cannot say to other loaders; train with "
                f"{', '.join(TRAINED_SCALINGS)}."
            )
        if self.init_from is None:
            if not self.model or self.vocab_size is None:
                raise ValueError(
                    "recipe: give init_from (a checkpoint to post-train), or model and vocab_size "
                    "for a network from scratch."
                )
            if self.rope_scaling is not None:
                raise ValueError(
                    "recipe: rope_scaling changes a checkpoint's RoPE and needs init_from; a "
                    "network from scratch takes model.rope_theta."
                )
        elif self.model or self.vocab_size is not None:
            raise ValueError(
                "recipe: init_from brings its own sizes and tokenizer; leave model and vocab_size "
                "out."
            )

    def _check_combinations(self) -> None:
        if self.objective == "autoregressive":
            for name, needed in (
                ("strategy", "windows"),
                ("init_from", None),
                ("lora", None),
                ("sequence_parallel", 1),
            ):
                if getattr(self, name) != needed:
                    raise ValueError(
                        f"recipe: {name}={getattr(self, name)!r} does not work with "
                        f"objective='autoregressive', which is the small twin; it takes {needed!r}."
                    )
        if self.strategy == "windows" and any(source.prompt_field for source in self.text):
            raise ValueError(
                "recipe: prompt_field needs whole documents, which strategy='windows' cuts; use "
                "adaptive, eod or direct."
            )
        if self.offload_checkpoints and not self.activation_checkpointing:
            raise ValueError(
                "recipe: offload_checkpoints=true moves activation checkpoints; it needs "
                "activation_checkpointing=true."
            )
        for phase in self.phases:
            if phase.sequence_length % self.sequence_parallel:
                raise ValueError(
                    f"recipe phases: sequence_length={phase.sequence_length} must be a multiple of "
                    f"sequence_parallel={self.sequence_parallel}."
                )

    @property
    def trained_length(self) -> int:
        """Row length of the longest phase, in tokens."""
        return max(phase.sequence_length for phase in self.phases)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.num_steps for phase in self.phases)
