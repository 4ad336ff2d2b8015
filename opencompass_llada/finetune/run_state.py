"""The state of a training run: what it was asked for, what it works with, how far it is."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from opencompass_llada.finetune.arithmetic import Shape
from opencompass_llada.finetune.checkpoints import CheckpointIndex
from opencompass_llada.finetune.data import TrainingData
from opencompass_llada.finetune.optimizer import MovingAverage
from opencompass_llada.finetune.parallel import Ranks
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.start import TrainingTokenizer


class RunState:
    """What the trainer changes, and logs and checkpoints read."""

    recipe: Recipe
    """What to do."""
    ranks: Ranks
    """The processes."""
    index: CheckpointIndex
    """The checkpoints that there are."""
    tokens: TrainingTokenizer
    """The tokenizer."""
    data: TrainingData
    """Text and rows."""
    shape: Shape
    """The network's sizes."""
    model: PreTrainedModel
    """The network."""
    network: nn.Module
    """The network with its objective, as it is sharded."""
    optimizer: Optimizer
    """AdamW."""
    average: MovingAverage
    """The moving average of the weights."""
    step: int
    """Optimiser steps done."""
    tokens_seen: int
    """Tokens of the rows so far."""
    seconds: float
    """Time spent in steps, over all starts."""
    history: list[dict[str, Any]]
    """Rows of figures, as logged."""
    stopped_by: int | None
    """The signal that ended training early; None if none did."""
