"""Keeps secrets out of what is written: configs that hold one are refused, texts are redacted.

A secret is known by its key (``token``, ``api_key``, ...) or by its form (``hf_...``, ``sk-...``, a
password in a URL).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HIDDEN = "<hidden>"
#: Keys whose texts are secrets; ``eos_token`` and the like are none.
_NAMES = (
    "token|hf_token|auth_token|use_auth_token|access_token|refresh_token|bearer_token|api_token|"
    "api_key|apikey|secret_key|secretkey|access_key|private_key|client_secret|secret|password|"
    "passwd|authorization"
)
_NAME = re.compile(_NAMES, re.IGNORECASE)
_VARIABLE = re.compile(rf"\w+_(?:{_NAMES})", re.IGNORECASE)
_FORM = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[opsu]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|glpat-[\w-]{16,}|AKIA[A-Z0-9]{16}|AIza[\w-]{35}|xox[abp]-[\w-]{10,})"
)
#: What OpenCompass's models of services take as ``key``, and no word is.
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w.-]{20,}")
_IN_TEXT = (
    (_FORM, HIDDEN),
    (re.compile(r"(?i)(\bbearer\s+)[\w.~+/-]{8,}=*"), rf"\1{HIDDEN}"),
    (re.compile(r"(\w://)[^/\s:@'\"]*:[^/\s@'\"]+@"), rf"\1{HIDDEN}@"),
    # name=value, name="value", 'name': 'value', VARIABLE_NAME=value and --name value
    (
        re.compile(
            rf"(?i)((?<![\w])(?:(?-i:[A-Z0-9_]+_))?(?:{_NAMES})['\"]?\s*[=:]\s*)(['\"]?)(?!{HIDDEN})[^\s'\",)&]+\2"
        ),
        rf"\1\2{HIDDEN}\2",
    ),
    (re.compile(rf"(?i)(--(?:{_NAMES.replace('_', '[-_]')})\s+)[^\s]+"), rf"\1{HIDDEN}"),
)
#: What stands for a secret without being one.
_PLACEHOLDERS = ("", "ENV", "EMPTY", "None", "True", "False", HIDDEN)


def redact(text: str) -> str:
    """Return a text, such as a command line or a traceback, with its secrets hidden."""
    for pattern, replacement in _IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def chosen_variables() -> dict[str, str]:
    """Return the LLADA_* variables of this process as a record may show them: secrets hidden."""
    return {
        name: HIDDEN if _VARIABLE.fullmatch(name) else redact(value)
        for name, value in os.environ.items()
        if name.startswith("LLADA_")
    }


def refuse_secrets(cfg: Mapping[str, Any]) -> None:
    """Refuse a config that holds a secret, naming its place: it is dumped and shown in reports."""
    # mmengine's Config is no Mapping.
    for place in _find({name: cfg[name] for name in cfg}, ""):
        raise ValueError(
            f"{place} holds what looks like a secret. Configs are written into the run's folder "
            "and into reports, so a secret does not belong there: take it out, and set it in the "
            "environment (HF_TOKEN for the Hugging Face hub; the variable that the service's "
            "client reads for another)"
        )


def _find(value: Any, place: str, key: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _find(item, f"{place}.{name}".lstrip("."), str(name))
    elif isinstance(value, str):
        is_named = _NAME.fullmatch(key) and value not in _PLACEHOLDERS
        is_random = key == "key" and _RANDOM.fullmatch(value)
        in_url = re.search(r"\w://[^/\s:@]*:[^/\s@]+@", value)
        if is_named or is_random or _FORM.search(value) or in_url:
            yield place
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for number, item in enumerate(value):
            yield from _find(item, f"{place}[{number}]", key)
