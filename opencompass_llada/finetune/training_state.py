"""What a run needs to go on exactly: weights in training precision, optimiser, average, history.

Written with torch.distributed.checkpoint, whole or sharded alike. Rows need no state: they are a
function of their number.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

_OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


def write_state(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, torch.Tensor],
    facts: dict[str, Any],
    *,
    is_main: bool,
) -> None:
    """Write the state; every rank calls it.

    Args:
        folder: Created.
        network: What is trained; frozen weights are not written.
        optimizer: Its optimiser.
        average: The moving average of weights by name; may be empty.
        facts: JSON-serialisable: step, tokens, seconds, history.
        is_main: Whether this rank writes the facts.
    """
    weights, moments = get_state_dict(network, optimizer, options=_OPTIONS)
    state: dict[str, Any] = {"weights": weights, "optimizer": moments}
    if average:
        state["average"] = dict(average)
    with warnings.catch_warnings():  # of saving from one process, which is meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.save(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
    if is_main:
        (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def read_state(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, torch.Tensor],
) -> dict[str, Any]:
    """Load the state in place; every rank calls it.

    Args:
        folder: From `write_state`; the number of ranks may be another.
        network: What is trained.
        optimizer: Its optimiser.
        average: The moving average, with storage for every weight if there is one.

    Returns:
        The facts.

    Raises:
        ValueError: If a file of the state is missing or broken.
    """
    weights, moments = get_state_dict(network, optimizer, options=_OPTIONS)
    state: dict[str, Any] = {"weights": weights, "optimizer": moments}
    if average:
        state["average"] = dict(average)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            dcp.load(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
        except (dcp.api.CheckpointException, OSError) as error:
            raise ValueError(
                f"The state to go on from, {str(folder)!r}, cannot be read ("
                f"{type(error).__name__}). Restore it, or start anew in another output_dir, with "
                f"init_from={str(folder.parent)!r} to keep what was learnt."
            ) from error
    set_state_dict(
        network,
        optimizer,
        model_state_dict=state["weights"],
        optim_state_dict=state["optimizer"],
        options=_OPTIONS,
    )
    for name, value in state.get("average", {}).items():
        average[name] = value
    return json.loads((folder / "facts.json").read_text(encoding="utf-8"))
