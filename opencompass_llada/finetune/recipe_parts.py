"""The groups of keys inside a recipe: text sources, phases, adapters, evaluation.

Each checks its own values; what concerns several of them is checked by finetune.recipe.
"""

from __future__ import annotations

from dataclasses import dataclass

from opencompass_llada.synthetic.embedded import SEED

#: Tokens that a row of every style needs: the longest copied span with its cue fits in it.
SHORTEST_ROW = 110


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """Text to train on: files, a data set, or generated documents.

    Attributes:
        paths: Globs of .txt or .md (a document a file), .json, .jsonl or .parquet files (a
            document a row); environment variables are expanded.
        dataset: A folder or hub id that the package ``datasets`` loads.
        dataset_config: The data set's configuration, where it has several.
        split: The data set's split.
        generated_seed: Seed of generated documents (opencompass_llada.synthetic).
        num_documents: How many generated documents; for a data set the first so many, 0 for all.
        text_field: The field of a row that holds the text.
        prompt_field: A field whose text stands before it and is never masked (supervised
            fine-tuning); None for plain text.
        weight: Share of the windows drawn from this source, relative to the others (strategy
            ``windows`` alone).
    """

    paths: tuple[str, ...] = ()
    dataset: str | None = None
    dataset_config: str | None = None
    split: str = "train"
    generated_seed: int | None = None
    num_documents: int = 0
    text_field: str = "text"
    prompt_field: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Require exactly one kind of source."""
        given = [
            name
            for name in ("paths", "dataset", "generated_seed")
            if getattr(self, name) not in ((), None)
        ]
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
        if self.num_documents < 0:
            raise ValueError(f"text source: num_documents={self.num_documents} must be from 0.")
        if self.generated_seed == SEED:
            raise ValueError(
                f"text source: generated_seed={SEED} makes the embedded haystack, which models are "
                "evaluated on; use another seed."
            )
        if not self.weight > 0:
            raise ValueError(f"text source: weight={self.weight} must be above 0.")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training at one row length.

    Attributes:
        sequence_length: Tokens a row.
        num_steps: Optimiser steps.
        rows_per_step: Rows of one optimiser step, over all devices.
        continuation_share: In place of the recipe's, in this phase; None for the recipe's.
    """

    sequence_length: int
    num_steps: int
    rows_per_step: int
    continuation_share: float | None = None

    def __post_init__(self) -> None:
        """Refuse empty phases."""
        share = self.continuation_share
        if share is not None and (not isinstance(share, int | float) or not 0 <= share <= 1):
            raise ValueError(f"phase: continuation_share={share!r} must be from 0 to 1.")
        for name in ("sequence_length", "num_steps", "rows_per_step"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"phase: {name}={value!r} must be a whole number from 1.")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685) on linear layers; norms stay trainable (LongLoRA).

    Attributes:
        rank: Rank of the adapters.
        alpha: The adapters' product is scaled by alpha / rank.
        target_modules: Last names of the linear layers that get one.
    """

    rank: int = 64
    alpha: float = 128.0
    target_modules: tuple[str, ...] = (
        *("q_proj", "k_proj", "v_proj", "attn_out"),
        *("ff_proj", "up_proj", "ff_out"),
    )

    def __post_init__(self) -> None:
        """Refuse ranks and scales that do nothing."""
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"lora: rank={self.rank!r} must be a whole number from 1.")
        if not self.alpha > 0:
            raise ValueError(f"lora: alpha={self.alpha!r} must be above 0.")
        if not self.target_modules:
            raise ValueError("lora: target_modules=[] must name at least one linear layer.")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured during training, every ``probe_every`` steps, on text never trained on.

    Attributes:
        text: The held-out text; perplexity is of its documents, joined.
        lengths: Context lengths in tokens that perplexity is measured at: always of the same
            last ``target_tokens`` tokens.
        target_tokens: Tokens scored.
        num_texts: Different places in the text.
        draws: Draws of the mask for each (masked diffusion).
        retrieval_lengths: Row lengths at which held-out retrieval is probed; empty for the
            phase's own.
        retrieval_rows: Rows of each style and length; 0 for no retrieval probe.
    """

    text: TextSource | None = None
    lengths: tuple[int, ...] = ()
    target_tokens: int = 64
    num_texts: int = 8
    draws: int = 8
    retrieval_lengths: tuple[int, ...] = ()
    retrieval_rows: int = 128

    def __post_init__(self) -> None:
        """Refuse lengths that leave nothing before the target."""
        if bool(self.lengths) != (self.text is not None):
            raise ValueError("evaluation: give text and lengths together, or neither.")
        for name in ("target_tokens", "num_texts", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation: {name}={getattr(self, name)} must be at least 1.")
        for length in self.lengths:
            if length < self.target_tokens:
                raise ValueError(
                    f"evaluation: lengths must be at least target_tokens={self.target_tokens}, "
                    f"got {length}."
                )
        if self.draws < 4 or self.draws % 2:
            raise ValueError(f"evaluation: draws={self.draws} must be even and at least 4.")
        for length in self.retrieval_lengths:
            if length < SHORTEST_ROW:
                raise ValueError(
                    f"evaluation: retrieval_lengths must be at least {SHORTEST_ROW}, got {length}."
                )
        if self.retrieval_rows < 0:
            raise ValueError(
                f"evaluation: retrieval_rows={self.retrieval_rows} must be from 0; 0 probes none."
            )
