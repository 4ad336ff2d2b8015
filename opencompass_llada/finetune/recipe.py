"""The training recipe: every choice of a run, checked completely before anything loads.

Holds no code that trains and reads no files (finetune.recipe_file does); every field says what it
does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from opencompass_llada.finetune.recipe_checks import check_recipe
from opencompass_llada.finetune.recipe_parts import (
    STRICT,
    Count,
    Evaluation,
    Folder,
    Inside,
    Lora,
    NotNegative,
    Phase,
    Positive,
    Seed,
    Share,
    Text,
    TextSource,
    Whole,
    WholeOrZero,
)
from opencompass_llada.finetune.styles import STYLES

Strategy = Literal["windows", "adaptive", "eod", "direct"]
_Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[_Beta, _Beta], Field(description="two numbers from 0 to below 1")]
Workers = Annotated[int, Field(ge=0, le=1024, description="a whole number from 0 to 1024")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
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
        continuation_share: Share of the text rows of which the end alone is masked (16 tokens to
            half the row), as when a model continues a text; the others are masked everywhere.
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
        keep_attention: Keep the attention's output, too: one more activation a block, and the part
            that grows with the square of the length is not computed again.
        offload_checkpoints: Keep the one activation a block on the host.
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

    output_dir: Folder
    text: tuple[TextSource, ...]
    phases: tuple[Phase, ...]
    init_from: Text | None = None
    rope_scaling: Mapping[str, Any] | None = None
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vocab_size: Count | None = None
    objective: Literal["masked_diffusion", "autoregressive"] = "masked_diffusion"
    strategy: Strategy = "windows"
    restart_positions: bool = False
    max_document_tokens: Whole | None = None
    cache_dir: Text | None = None
    continuation_share: Share = 0.0
    retrieval_share: Share = 0.0
    retrieval_masked_everywhere: Share = 0.25
    retrieval_styles: Mapping[str, NotNegative] = dataclasses.field(
        default_factory=lambda: dict(STYLES)
    )
    loss_weight: Literal["inverse_t", "none"] = "inverse_t"
    mask_ratios: Literal["low_discrepancy", "uniform"] = "low_discrepancy"
    min_mask_ratio: Inside = 0.1
    learning_rate: Positive = 3e-3
    warmup_steps: WholeOrZero = 200
    weight_decay: NotNegative = 0.1
    betas: Betas = (0.9, 0.95)
    clip_norm: Positive = 1.0
    ema_decay: Inside | None = None
    lora: Lora | None = None
    parameter_dtype: Literal["float32", "bfloat16"] = "float32"
    micro_rows: Count | None = None
    sequence_parallel: Whole = 1
    activation_checkpointing: bool = False
    keep_attention: bool = False
    offload_checkpoints: bool = False
    mlp_tile: Whole | None = None
    loss_chunk: Whole = 32768
    compile: bool = False
    memory_limit: Positive | None = None
    seed: Seed = 0
    num_workers: Workers = 0
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
        check_recipe(self)

    @property
    def trained_length(self) -> int:
        """Row length of the longest phase, in tokens."""
        return max(phase.sequence_length for phase in self.phases)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.num_steps for phase in self.phases)
