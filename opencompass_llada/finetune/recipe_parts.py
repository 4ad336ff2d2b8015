"""The groups of keys inside a recipe: text sources, phases, adapters, evaluation.

Types and ranges are the annotations, which pydantic checks without turning one type into another;
what concerns several values is checked below them, or by finetune.recipe_checks.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from opencompass_llada.synthetic.embedded import SEED

#: Tokens that a row of every style needs: the longest copied span with its cue fits in it.
SHORTEST_ROW = 110

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
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
Positive = Annotated[float, Field(gt=0, description="a number above 0")]
NotNegative = Annotated[float, Field(ge=0, description="a number from 0")]
Share = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]
Inside = Annotated[float, Field(gt=0, lt=1, description="a number above 0 and below 1")]
Draws = Annotated[
    int,
    Field(ge=4, le=10_000, multiple_of=2, description="an even whole number from 4 to 10,000"),
]
RetrievalLength = Annotated[
    int, Field(ge=SHORTEST_ROW, description=f"a whole number from {SHORTEST_ROW}")
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
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

    paths: tuple[Text, ...] = ()
    dataset: Text | None = None
    dataset_config: Text | None = None
    split: Text = "train"
    generated_seed: Seed | None = None
    num_documents: CountOrZero = 0
    text_field: Text = "text"
    prompt_field: Text | None = None
    weight: Positive = 1.0

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
        if self.generated_seed == SEED:
            raise ValueError(
                f"text source: generated_seed={SEED} makes the embedded haystack, which models are "
                "evaluated on; use another seed."
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Phase:
    """A stretch of training at one row length.

    Attributes:
        sequence_length: Tokens a row.
        num_steps: Optimiser steps.
        rows_per_step: Rows of one optimiser step, over all devices.
        continuation_share: In place of the recipe's, in this phase; None for the recipe's.
    """

    sequence_length: Whole
    num_steps: Whole
    rows_per_step: Count
    continuation_share: Share | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Lora:
    """Low-rank adapters (arXiv 2106.09685) on linear layers; norms stay trainable (LongLoRA).

    Attributes:
        rank: Rank of the adapters.
        alpha: The adapters' product is scaled by alpha / rank.
        target_modules: Last names of the linear layers that get one.
    """

    rank: Whole = 64
    alpha: Positive = 128.0
    target_modules: tuple[Text, ...] = (
        *("q_proj", "k_proj", "v_proj", "attn_out"),
        *("ff_proj", "up_proj", "ff_out"),
    )

    def __post_init__(self) -> None:
        """Refuse adapters of nothing."""
        if not self.target_modules:
            raise ValueError("lora: target_modules=[] must name at least one linear layer.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
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
    lengths: tuple[Whole, ...] = ()
    target_tokens: Count = 64
    num_texts: Count = 8
    draws: Draws = 8
    retrieval_lengths: tuple[RetrievalLength, ...] = ()
    retrieval_rows: CountOrZero = 128

    def __post_init__(self) -> None:
        """Refuse lengths that leave nothing before the target."""
        if bool(self.lengths) != (self.text is not None):
            raise ValueError("evaluation: give text and lengths together, or neither.")
        for length in self.lengths:
            if length < self.target_tokens:
                raise ValueError(
                    f"evaluation: lengths must be at least target_tokens={self.target_tokens}, "
                    f"got {length}."
                )
