"""Plans the cells in which a model is shown less: the last window of its prompt, or no context.

Each reader's cells are groups of their own beside the run's. The window is what a model was
pre-trained for, before any extension; a cell that is no longer than the window is not planned,
since the model's own answer to it is the reader's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.counting import name_tokenizer
from opencompass_llada.benchmarks.data_checks import find_class
from opencompass_llada.benchmarks.readers import ReaderOptions
from opencompass_llada.runs.model_table import KnownModel

logger = logging.getLogger(__name__)

Config = dict[str, Any]
Group = dict[str, list[Config]]
_ORIGINAL = ("original_max_sequence_length", "original_max_position_embeddings")


def pretrained_length(facts: KnownModel) -> int:
    """Return the tokens that a model saw before any extension of its context.

    What config.json states beside the scaling that it was post-trained with; else the table's.
    """
    for place in filter(None, (facts.adapter, facts.path)):
        if stated := _read_original(place):
            return stated
    return facts.pretrained_length or facts.trained_length


def _read_original(path: str) -> int | None:
    try:
        file = Path(resolve_path(path)).expanduser() / "config.json"
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of the hub, or no checkpoint: said before the run
        return None
    for part in ("rope_training", "rope_scaling", "rope_parameters"):
        for name in _ORIGINAL:
            if length := (fields.get(part) or {}).get(name):
                return int(length)
    return None


def check_readers(readers: Sequence[str]) -> None:
    """Refuse readers without ``full``, which the others are floors of."""
    if "full" not in readers:
        raise ValueError(
            f"readers={','.join(readers)!r} leaves out 'full', which the others are compared "
            f"with; use full,{','.join(readers)} (LLADA_READERS)."
        )


@dataclass(frozen=True, kw_only=True)
class _Window:
    """What cells of the last window depend on besides the cell; models that share it share them."""

    tokens: int
    tokenizer: str = field(compare=False)
    """Path; of several with one content, the first."""
    counted_by: str
    """Its name, by content."""
    chat: bool
    answer_length: int
    """Of data sets that ask for none."""
    limit: int | None
    """Tokens of a prompt that the model gets at most."""


def add_readers(
    groups: Sequence[Group],
    readers: Sequence[str],
    find_facts: Callable[[Config], KnownModel],
    window: int | None = None,
    check_data: Callable[[Sequence[Config]], None] = lambda cells: None,
) -> list[Group]:
    """Return the groups of models and data sets of each reader but ``full``.

    A data set that `check_data` refuses, since the window has no room for its question, is left
    out, and so are those whose class knows no readers; the log says so.

    Args:
        groups: Of the run.
        readers: Of `benchmarks.readers.READERS`.
        find_facts: Returns what is known of a model's config.
        window: Tokens of every model's last window; None for what each was pre-trained for.
        check_data: Makes some samples, or raises a ValueError.
    """
    check_readers(readers)
    found: list[Group] = []
    paths: dict[str, str] = {}
    for group in groups:
        cells = [cell for cell in group["datasets"] if _knows_readers(cell)]
        if "no_context" in readers:
            found += _keep_fitting(group["models"], list(map(_without_context, cells)), check_data)
        windows: dict[_Window, list[Config]] = {}
        for model in group["models"] if "last_window" in readers else ():
            own = _describe_window(model, window or pretrained_length(find_facts(model)), paths)
            windows.setdefault(own, []).append(model)
        for own, models in windows.items():
            shown = [_last_window(cell, own) for cell in cells if _is_longer(cell, own)]
            found += _keep_fitting(models, shown, check_data)
    return found


def _knows_readers(cell: Config) -> bool:
    options = getattr(find_class(cell["type"]), "options_class", None)
    if options is not None and issubclass(options, ReaderOptions):
        return True
    logger.warning("%s is run in full alone: its data set has no other readers.", cell["abbr"])
    return False


def _describe_window(model: Config, tokens: int, paths: dict[str, str]) -> _Window:
    tokenizer = str(model.get("tokenizer_path") or model["path"])
    counted_by = name_tokenizer(tokenizer)
    return _Window(
        tokens=tokens,
        tokenizer=paths.setdefault(counted_by, tokenizer),
        counted_by=counted_by,
        chat=bool(model.get("chat")),
        answer_length=model["max_out_len"],
        limit=model.get("max_seq_len"),
    )


def _is_longer(cell: Config, window: _Window) -> bool:
    """Tell whether a cell's prompts may be longer than the window."""
    longest = cell.get("length") or window.limit
    return longest is None or longest > window.tokens


def _without_context(cell: Config) -> Config:
    return {**cell, "abbr": f"{cell['abbr']}_no_context", "reader": "no_context"}


def _last_window(cell: Config, window: _Window) -> Config:
    """Return a data set as it is shown in a window; the name says what it depends on."""
    name = f"{cell['abbr']}_last_window{window.tokens}"
    template = cell["infer_cfg"].get("prompt_template") or {}
    own_length = cell["infer_cfg"]["inferencer"].get("max_out_len")
    shown: Config = {
        **cell,
        "reader": "last_window",
        "window": window.tokens,
        "window_reserve": own_length or window.answer_length,
    }
    if not own_length:
        name += f"_out{window.answer_length}"
    counted_by = cell.get("tokenizer")
    if not counted_by or name_tokenizer(str(counted_by)) != window.counted_by:
        shown["window_tokenizer"] = window.tokenizer
        name += f"_by-{window.counted_by}"
    if window.chat and template.get("chat", True):
        shown["window_chat"] = True
        name += "_chat"
    return {**shown, "abbr": name}


def _keep_fitting(
    models: Sequence[Config],
    cells: Sequence[Config],
    check_data: Callable[[Sequence[Config]], None],
) -> Iterator[Group]:
    """Yield a group with the data sets that can be made, if any."""
    kept, faults = list(cells), []
    try:
        check_data(kept)
    except ValueError:
        for cell in cells:
            try:
                check_data([cell])
            except ValueError as error:
                kept.remove(cell)
                faults.append(f"{cell['abbr']}: {error}")
        if not faults:  # of all together, not of one
            raise
        logger.warning(
            "%d of %d data sets have no such reader: %s", len(faults), len(cells), faults[0]
        )
    if kept:
        yield {"models": list(models), "datasets": kept}


def list_reader_cells(
    cells: Sequence[Config], readers: Sequence[str], window: int | None
) -> list[Config]:
    """Return data sets by name with those of other readers, for models that nobody has named yet.

    Raises:
        ValueError: If the last window is asked for, and its length or what counts it is not known.
    """
    check_readers(readers)
    found = list(cells)
    if "no_context" in readers:
        found += map(_without_context, cells)
    if "last_window" in readers:
        if window is None or any(not cell.get("tokenizer") for cell in cells):
            raise ValueError(
                "readers='last_window' of data sets by name: which model reads is not known, so "
                "give its window (LLADA_READER_WINDOW); data sets that count no tokens, such as "
                "LongBench's, are run by a config of their own, as configs/eval_llada_long.py."
            )
        for cell in cells:
            tokenizer = str(cell["tokenizer"])
            own = _Window(tokens=window, tokenizer=tokenizer, counted_by=name_tokenizer(tokenizer),
                          chat=False, answer_length=0, limit=None)  # fmt: skip
            found += [_last_window(cell, own)] if _is_longer(cell, own) else []
    return found


def tell_left_out(readers: Sequence[str] | None, reason: str, benchmark: str) -> str:
    """Say why a benchmark has no readers but ``full``; '' where none was asked for, or it has."""
    asked = [name for name in readers or () if name != "full"]
    return f"{benchmark} is not run by {' and '.join(asked)}: {reason}.\n" if asked else ""
