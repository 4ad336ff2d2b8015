"""Sends the leaderboard's scores to TensorBoard, Weights & Biases or MLflow, if asked to.

Each through its own library. A missing score is not sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

from opencompass_llada.options import reject_unknown
from opencompass_llada.report.scores import Score
from opencompass_llada.report.writers import file_name

#: A metric's name, its step (the length, 0 for none) and its value.
Point = tuple[str, int, float]


def open_tracker(target: str) -> Callable[[Sequence[Score]], None]:
    """Return what sends scores to ``KIND:PLACE``, a run a line of the leaderboard.

    Raises:
        ValueError: For another kind, or without a place.
        ImportError: If the kind's package is not installed; says how to install it.
    """
    kind, _, place = target.partition(":")
    reject_unknown("--log", [kind], _SENDERS)
    if not place:
        raise ValueError(f"--log {target} names no place; use {_PLACES[kind]}.")
    try:
        module = import_module(_MODULES[kind])
    except ImportError as error:
        raise ImportError(
            f"--log {target} needs {kind}: pip install {kind}. Nothing was read or written; "
            "without --log the report is written and nothing is sent."
        ) from error

    def send(scores: Sequence[Score]) -> None:
        entries = list(dict.fromkeys(score.entry for score in scores))
        folders = [file_name(entry) for entry in entries]
        for number, entry in enumerate(entries, start=1):
            own = [score for score in scores if score.entry == entry]
            is_other = folders.count(file_name(entry)) > 1  # "a b" and "a-b" would share a run
            name = f"{entry} {number}" if is_other else entry
            _SENDERS[kind](module, place, name, list(_list_points(own)))

    return send


def _list_points(scores: Sequence[Score]) -> Iterator[Point]:
    """Yield scores with the ends of their intervals, in order of length, as W&B asks for."""
    for score in sorted(scores, key=lambda own: own.length or 0):
        name = re.sub(r"[^\w./ -]+", " ", f"{score.series}/{score.column}")
        for end, value in (("", score.score), ("/low", score.low), ("/high", score.high)):
            if value is not None:
                yield f"{name}{end}", score.length or 0, value


def _to_tensorboard(module: Any, place: str, entry: str, points: Sequence[Point]) -> None:
    with module.SummaryWriter(f"{place}/{file_name(entry)}") as writer:
        for name, step, value in points:
            writer.add_scalar(name, value, step)


def _to_wandb(module: Any, place: str, entry: str, points: Sequence[Point]) -> None:
    with module.init(project=place, name=entry) as run:
        for name, step, value in points:
            run.log({name: value}, step=step)


def _to_mlflow(module: Any, place: str, entry: str, points: Sequence[Point]) -> None:
    module.set_tracking_uri(place)
    module.set_experiment("opencompass-llada")
    with module.start_run(run_name=entry):
        for name, step, value in points:
            module.log_metric(name, value, step=step)


_SENDERS = {"tensorboard": _to_tensorboard, "wandb": _to_wandb, "mlflow": _to_mlflow}
_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
_PLACES = {"tensorboard": "tensorboard:FOLDER", "wandb": "wandb:PROJECT", "mlflow": "mlflow:URI"}
