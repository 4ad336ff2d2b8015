"""Reads what to run from a config's settings and from LLADA_* environment variables.

A variable wins over the setting of the same name (LLADA_MODELS over ``models``). ``LLADA_DEMO=1``
puts the benchmark's demo, tiny models and embedded data, in place of a config's settings; other
variables still win over it. The dumped config holds the result and reads no variable.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from opencompass_llada.benchmarks.readers import READERS
from opencompass_llada.options import reject_unknown

PREFIX = "LLADA_"
_FACTORS = {"k": 1024, "m": 1024 * 1024}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of a run, and so one variable."""

    text: str
    """What it holds, for messages."""
    is_list: bool = False
    is_number: bool = False
    choices: tuple[str, ...] = ()
    """The values that it takes; () for any."""
    lowest: int = 1
    """The smallest number."""
    fractions: bool = False
    """Whether a config may give numbers that are not whole."""
    is_length: bool = False
    """Whether its numbers are tokens, which may be given as ``4k`` (`read_length`)."""


def text(text: str, *choices: str, **options: Any) -> Setting:
    """Return a setting of one text."""
    return Setting(text=text, choices=choices, **options)


#: Settings of texts, of one whole number and of whole numbers, lists separated by commas.
texts = partial(text, is_list=True)
number = partial(text, is_number=True)
numbers = partial(text, is_list=True, is_number=True)


def token_lengths(text: str) -> Setting:
    """Return a setting of lengths in tokens, which may be given as ``4k`` or ``1m``."""
    return numbers(f"{text}; 4k is 4096", is_length=True)


#: Of every run, before and after its benchmark's own.
LEADING = {
    "models": texts(
        "names of docs/reference/models.md, PATH, ALIAS=PATH or NAME=PATH, separated by commas"
    ),
    "scaling": texts(
        "METHOD or METHOD:option=number, separated by commas; all: those of "
        "docs/reference/models.md; METHOD:all: those of one method"
    ),
}
BATCH_SIZE = {"batch_size": number("prompts, or masks of one, at a time; default the model's")}
SHARDS = {
    "shard": text(
        "i/n: answer this part of the samples alone, i from 0 on; auto in a Slurm array or a "
        "Kubernetes indexed job"
    ),
    "num_shards": number("shards of a Kubernetes indexed job, for LLADA_SHARD=auto"),
}
WORKERS = {
    "workers": number("tasks at a time; default one a GPU, or one a core up to two on a CPU"),
    "gpus": number(
        "GPUs of all nodes that the run may use, where this node has others (--slurm)", lowest=0
    ),
    "task_seconds": number(
        "seconds that a task is to take, as for a time limit; default by cost, see "
        "docs/tutorials/cluster.md"
    ),
    **SHARDS,
}
READ_BY = {
    "readers": texts(
        "who reads each prompt: full, last_window (the end that the model was pre-trained for) and "
        "no_context, separated by commas; default full alone",
        *READERS,
    ),
    "reader_window": number(
        "tokens of the last window, prompt and answer; default what each model was pre-trained "
        "for; 4k is 4096",
        is_length=True,
    ),
}
TRAILING = {
    "demo": text(
        "1 for tiny models on embedded data instead of the config's own settings", "0", "1"
    ),
    "dtype": text(
        "precision of the weights: bfloat16, float16 or float32; default by model and device",
        *("bfloat16", "float16", "float32"),
    ),
}


@dataclass(frozen=True)
class Settings:
    """Settings by name, each with where its value comes from; None where none was given."""

    values: dict[str, Any]
    sources: dict[str, str]
    given: frozenset[str] = frozenset()
    """Those that are no defaults."""

    def __getitem__(self, name: str) -> Any:
        """Return a setting's value."""
        return self.values[name]

    def default(self, name: str, value: Any, reason: str = "default") -> None:
        """Take a value, and say why, where none was given."""
        if self.values[name] is None:
            self.values[name], self.sources[name] = value, reason

    def defaults(self, reason: str = "default", /, **values: Any) -> None:
        """Take each value for which none was given, all for one reason."""
        for name, value in values.items():
            self.default(name, value, reason)

    def is_variable(self, name: str) -> bool:
        """Return whether a value is that of an environment variable."""
        return self.sources[name].startswith("$")

    def replaced(self, **values: Any) -> Settings:
        """Return a copy with other values."""
        return Settings({**self.values, **values}, dict(self.sources), self.given)

    def announce(self, headline: str) -> None:
        """Write to standard error what is run, and why; lengths also where they are by model."""
        lines = [headline]
        for name, value in self.values.items():
            if value is not None or name == "lengths":
                shown = ",".join(map(str, value)) if isinstance(value, list) else value
                shown = "by model" if shown is None else shown
                lines.append(f"  {name:<18}{shown}  [{self.sources[name]}]")
        sys.stderr.write("\n".join(lines) + "\n")


def read_length(written: str) -> int | None:
    """Return the tokens of a length such as ``4096``, ``4k`` or ``1m``; None for any other text.

    k is 1,024 for every benchmark: 4k is 4,096 tokens, as in RULER and the papers' context lengths,
    and 1m is 1,048,576.
    NeedleBench's own names take 1,000, so its 4k is 4000 here.
    """
    digits = written.strip().lower()
    factor = _FACTORS.get(digits[-1:], 1)
    if factor > 1:
        digits = digits[:-1]
    return int(digits) * factor if digits.isdecimal() else None


def list_variable(name: str) -> list[str]:
    """Return the parts of a variable that holds a list; none where it is not set."""
    return _split(os.environ.get(PREFIX + name, ""))


def is_demo() -> bool:
    """Return whether the demo is asked for."""
    return os.environ.get(PREFIX + "DEMO", "").strip() == "1"


@contextmanager
def only_variables(given: Mapping[str, str]) -> Iterator[None]:
    """Let a block see these LLADA_* variables, named without the prefix, and no others."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(PREFIX)}
    names = {PREFIX + name: value for name, value in given.items()}
    os.environ.update(names)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(hidden)


def read_settings(
    given: Mapping[str, Any],
    table: Mapping[str, Setting],
    demo: Mapping[str, Any] | None = None,
    others: Collection[str] = (),
) -> Settings:
    """Merge a config's settings, None for the default, with the environment.

    LLADA_DEMO=1 takes those of ``demo`` instead, if it is given. ``others`` are names of variables
    that are of no concern here. An unknown setting, variable or value is refused by a ValueError.
    """
    origin = "the config's settings"
    if demo is not None and is_demo():
        given, origin = demo, "the demo"
    variables = [PREFIX + name.upper() for name in (*table, *others)]
    reject_unknown("setting", given, table)
    reject_unknown("variable", [name for name in os.environ if name.startswith(PREFIX)], variables)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, setting in table.items():
        variable = PREFIX + name.upper()
        written = os.environ.get(variable, "").strip()
        value, source = given.get(name), origin
        if written:
            value, source = _parse_variable(variable, written, setting), f"${variable}"
        elif setting.is_length and isinstance(value, list | tuple):
            value = [_length_of(item) for item in value]
        if value is not None:
            _check_value(source, name, value, setting)
        values[name], sources[name] = value, "default" if value is None else source
    given_names = frozenset(name for name, value in values.items() if value is not None)
    return Settings(values, sources, given_names)


def _split(written: str) -> list[str]:
    return [part.strip() for part in written.split(",") if part.strip()]


def _length_of(item: Any) -> Any:
    """Return a length that is given as a text, in tokens; anything else as it is."""
    length = read_length(item) if isinstance(item, str) else None
    return item if length is None else length


def _parse_variable(variable: str, written: str, setting: Setting) -> Any:
    if not setting.is_list and not setting.is_number:
        return written
    parts: Sequence[Any] = _split(written)
    if setting.is_number:
        if setting.is_length:
            parts = [str(_length_of(part)) for part in parts]
        if not parts or not all(part.isdecimal() for part in parts):
            form = "whole numbers, separated by commas" if setting.is_list else "one whole number"
            raise ValueError(
                f"{variable}={written!r} must be {form}, from {setting.lowest} ({setting.text})."
            )
        parts = [int(part) for part in parts]
    if setting.is_list:
        return list(dict.fromkeys(parts))
    if len(parts) != 1:
        raise ValueError(f"{variable}={written!r} must be one value ({setting.text}).")
    return parts[0]


def _check_value(source: str, name: str, value: Any, setting: Setting) -> None:
    wanted = (int, float)[: 1 + setting.fractions] if setting.is_number else str
    items = value if setting.is_list and isinstance(value, list | tuple) else [value]
    right = all(isinstance(item, wanted) and not isinstance(item, bool) for item in items)
    if right and setting.is_number:
        right = all(item >= setting.lowest for item in items)
    if not right or not items or (setting.is_list and items is not value):
        kind = f"whole number from {setting.lowest}" if setting.is_number else "text"
        kind = f"a list of at least one {kind}" if setting.is_list else f"one {kind}"
        raise ValueError(f"{name}={value!r} ({source}) must be {kind} ({setting.text}).")
    if setting.choices:
        reject_unknown(source + " value", items, setting.choices)
