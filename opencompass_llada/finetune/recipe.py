"""The training recipe: a YAML file, checked completely before anything loads.

Holds no code that trains; every field says what it does.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from opencompass_llada.finetune.networks import LLAMA_NAMES
from opencompass_llada.finetune.styles import STYLES
from opencompass_llada.modeling import LLaDAConfig
from opencompass_llada.options import reject_unknown, unknown_name_message
from opencompass_llada.synthetic.embedded import SEED

#: Tokens that a row of every style needs: the longest copied span with its cue fits in it.
SHORTEST_ROW = 110
_LOWEST = {"vocab_size": 1, "log_every": 1, "probe_every": 1, "warmup_steps": 0, "num_workers": 0}
_NUMBERS = (
    *("learning_rate", "clip_norm", "weight_decay"),
    *("min_mask_ratio", "retrieval_share", "retrieval_masked_everywhere"),
)
OBJECTIVES = ("masked_diffusion", "autoregressive")
#: Fields of the network's config that the trainer sets itself.
_SET_BY_TRAINER = (
    *("vocab_size", "embedding_size", "max_sequence_length"),
    *("mask_token_id", "eos_token_id", "pad_token_id"),
)


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """Text to train on.

    Attributes:
        paths: Globs of .txt, .json or .jsonl files; environment variables are expanded. Empty
            together with ``generated_seed``.
        text_field: The field of a JSON line that holds the text.
        generated_seed: Seed of generated documents (opencompass_llada.synthetic) instead of files.
        num_documents: How many generated documents.
        weight: Share of the windows drawn from this source, relative to the others.
    """

    paths: tuple[str, ...] = ()
    text_field: str = "text"
    generated_seed: int | None = None
    num_documents: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Require either files or generated documents."""
        if bool(self.paths) == (self.generated_seed is not None):
            raise ValueError("text source: give exactly one of paths and generated_seed.")
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
        if not self.weight > 0:
            raise ValueError(f"text source: weight={self.weight} must be above 0.")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training at one row length.

    Attributes:
        sequence_length: Tokens a row.
        num_steps: Optimiser steps.
        rows_per_step: Rows of one optimiser step.
    """

    sequence_length: int
    num_steps: int
    rows_per_step: int

    def __post_init__(self) -> None:
        """Refuse empty phases."""
        for item in dataclasses.fields(self):
            if getattr(self, item.name) < 1:
                raise ValueError(
                    f"phase: {item.name}={getattr(self, item.name)} must be at least 1."
                )
        if self.sequence_length < SHORTEST_ROW:
            raise ValueError(
                f"phase: sequence_length={self.sequence_length} must be at least {SHORTEST_ROW}, "
                "which retrieval rows need."
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a training run needs.

    Attributes:
        output_dir: Folder that the checkpoint is written to.
        model: Sizes in the names of LLaDA's config.json; special token ids come from the tokenizer.
        vocab_size: Entries of the byte-level BPE tokenizer that is trained on the text.
        text: Where the text comes from.
        phases: Row lengths and steps, in order; the last one's length is the trained length.
        objective: ``masked_diffusion`` trains a LLaDA, ``autoregressive`` a Llama of the same shape
            on the same rows.
        retrieval_share: Share of rows that hold needles and questions (0 to 1).
        retrieval_masked_everywhere: Share of those rows that are masked like plain text.
        retrieval_styles: Share of each style among the retrieval rows, relative to the others.
        min_mask_ratio: Smallest mask ratio t that is drawn.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Steps of linear warm-up; cosine decay to a tenth follows.
        weight_decay: On matrices; norms and embeddings have none.
        betas: AdamW's.
        clip_norm: Largest gradient norm.
        seed: Of weights, rows and masks.
        num_workers: Processes that make rows; 0 makes them in the training process.
        log_every: Steps between log lines.
        probe_every: Steps between retrieval probes; the checkpoint is written at each.
        compile: Compile the network with torch.compile (CUDA).
        dtype: Of the weights in the checkpoint file: bfloat16, float16 or float32.
        time_limit: Seconds after which training ends whatever step it is at, the learning rate
            having decayed as if that were the last; None for no limit. A run that the limit cut
            short cannot be repeated exactly.
    """

    output_dir: str
    model: Mapping[str, Any]
    vocab_size: int
    text: tuple[TextSource, ...]
    phases: tuple[Phase, ...]
    objective: str = "masked_diffusion"
    retrieval_share: float = 0.5
    retrieval_masked_everywhere: float = 0.25
    retrieval_styles: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(STYLES))
    min_mask_ratio: float = 0.1
    learning_rate: float = 3e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    seed: int = 0
    num_workers: int = 0
    log_every: int = 100
    probe_every: int = 1000
    compile: bool = False
    dtype: str = "bfloat16"
    time_limit: float | None = None

    def __post_init__(self) -> None:
        """Check ranges that need no file and no device."""
        self._check_numbers()
        for name in ("retrieval_share", "retrieval_masked_everywhere"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"recipe: {name}={getattr(self, name)} must be from 0 to 1.")
        if not 0 < self.min_mask_ratio < 1:
            raise ValueError(
                f"recipe: min_mask_ratio={self.min_mask_ratio} must be above 0 and below 1."
            )
        if self.objective not in OBJECTIVES:
            raise ValueError(unknown_name_message("objective", str(self.objective), OBJECTIVES))
        self._check_styles()
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"recipe: time_limit={self.time_limit} must be above 0, or null.")
        known = inspect.signature(LLaDAConfig.__init__).parameters.keys()
        reject_unknown("model key", self.model, known - {"self", "kwargs", *_SET_BY_TRAINER})
        if self.objective == "autoregressive":
            reject_unknown("model key of the autoregressive objective", self.model, LLAMA_NAMES)
        if not self.text or not self.phases:
            raise ValueError("recipe: text and phases need at least one entry each.")
        if self.dtype not in ("bfloat16", "float16", "float32"):
            raise ValueError(
                f"recipe: dtype={self.dtype!r} must be 'bfloat16', 'float16' or 'float32'."
            )

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

    def _check_numbers(self) -> None:
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise ValueError(f"recipe: {name}={value!r} must be a whole number from {lowest}.")
        for name in _NUMBERS:
            value = getattr(self, name)
            positive = name in ("learning_rate", "clip_norm")
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

    @property
    def trained_length(self) -> int:
        """Row length of the last phase, in tokens."""
        return self.phases[-1].sequence_length

    @property
    def num_steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.num_steps for phase in self.phases)


def _build(cls: type, what: str, values: Mapping[str, Any]) -> Any:
    fields = {item.name for item in dataclasses.fields(cls) if item.init}
    reject_unknown(f"{what} key", values, fields)
    required = {
        item.name
        for item in dataclasses.fields(cls)
        if item.init
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - values.keys()):
        raise ValueError(f"{what}: {', '.join(missing)} must be given.")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Turn parsed YAML into a checked recipe.

    Args:
        values: The YAML mapping.

    Returns:
        The recipe.

    Raises:
        ValueError: For unknown or missing keys and values out of range.
    """
    values = dict(values)
    for name, cls in (("text", TextSource), ("phases", Phase)):
        items = values.get(name, ())
        if not isinstance(items, list | tuple) or not all(isinstance(i, Mapping) for i in items):
            raise ValueError(f"recipe: {name}={items!r} must be a list of mappings.")
        values[name] = tuple(_build(cls, f"recipe {name}", item) for item in items)
    return _build(Recipe, "recipe", values)


def _read(file: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe file over the one that it names as its base."""
    if not file.is_file():
        raise ValueError(f"Recipe {str(file)!r} does not exist. Recipes lie in configs/finetune/.")
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"Recipe {str(file)!r} must be a YAML mapping of keys to values.")
    base = values.pop("base", None)
    if base is None:
        return values
    seen = (*seen, file.resolve())
    target = file.parent / str(base)
    if target.resolve() in seen:
        raise ValueError(f"Recipe {str(file)!r}: base={base!r} leads back to itself.")
    return {**_read(target, seen), **values}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file.

    A recipe with ``base: OTHER.yaml`` (beside it) takes every key that it does not give from there.

    Args:
        path: YAML file.
        overrides: ``key=value`` pairs for top-level keys; the value is parsed as YAML.

    Returns:
        The recipe.

    Raises:
        ValueError: If the file is missing or no mapping, or a key or value is wrong.
    """
    values = _read(Path(path))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"Override {override!r} must have the form key=value.")
        values[key] = yaml.safe_load(text)
    return parse_recipe(values)
