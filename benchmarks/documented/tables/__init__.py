"""The tables of the docs: each file of this folder makes one kind, and is found by being here."""

from __future__ import annotations

import importlib
import pkgutil

from documented.registry import TABLES

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
