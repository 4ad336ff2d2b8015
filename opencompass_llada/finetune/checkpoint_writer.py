"""Writes a run's checkpoint: published format, facts of the run, and the state to go on from.

Puts saving, record and state together; decides nothing about which checkpoints are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from opencompass_llada.finetune.checkpoints import STATE
from opencompass_llada.finetune.devices import wait_for_all
from opencompass_llada.finetune.lora import published_tensors
from opencompass_llada.finetune.record import describe_run
from opencompass_llada.finetune.saving import (
    config_fields,
    write_atomically,
    write_facts,
    write_weights,
)
from opencompass_llada.finetune.training_state import write_state

if TYPE_CHECKING:
    from opencompass_llada.finetune.loop import Trainer


def write_checkpoint(trainer: Trainer, folder: Path, *, with_state: bool) -> None:
    """Write a checkpoint, whole or not at all; every rank calls it.

    Args:
        trainer: The run.
        folder: An earlier checkpoint in it is replaced.
        with_state: Whether training can go on from it.

    Raises:
        SaveError: If it cannot be written.
    """
    recipe, ranks = trainer.recipe, trainer.ranks

    def fill(part: Path) -> None:
        trainer.average.swap()
        tensors = published_tensors(trainer.model, recipe.lora, getattr(torch, recipe.dtype))
        try:
            write_weights(part, tensors, write=ranks.is_main)
        finally:
            trainer.average.swap()
        if ranks.is_main:
            config = config_fields(trainer.model, recipe)
            write_facts(part, config, trainer.tokens.tokenizer, describe_run(trainer))
        if with_state:
            facts = {
                "step": trainer.step,
                "tokens": trainer.tokens_seen,
                "seconds": trainer.seconds,
                "history": trainer.history,
            }
            write_state(
                part / STATE,
                trainer.network,
                trainer.optimizer,
                trainer.average.weights,
                facts,
                is_main=ranks.is_main,
            )

    write_atomically(folder, fill, is_main=ranks.is_main, wait=lambda: wait_for_all(ranks))
