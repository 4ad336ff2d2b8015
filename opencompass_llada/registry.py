"""Imports all that OpenCompass may ask a class of; mmengine looks for this file by its name.

mmengine imports it for every dotted type and swallows an ImportError there, so that a broken import
would end as "... is not in the registry"; here it becomes a RuntimeError that names the cause.
"""

from __future__ import annotations

import importlib
import logging

from opencompass_llada.old_names import MOVED

#: Modules with classes of which OpenCompass may be asked; one that never moved is named here.
MODULES = (
    "opencompass_llada.wrapper",
    "opencompass_llada.wrapper.model",
    *sorted({f"opencompass_llada.{module}" for module in MOVED.values()}),
    # Of suites that came after the names of before were given up.
    *(
        f"opencompass_llada.benchmarks.{suite}.dataset"
        for suite in (
            *("aa_lcr", "babilong", "generated", "infinitebench", "leval", "lveval", "mrcr"),
            "needlebench_v2",
        )
    ),
    *(f"opencompass_llada.benchmarks.{suite}.scoring" for suite in ("aa_lcr", "needlebench_v2")),
)


def _import_components() -> None:
    for module in MODULES:
        try:
            importlib.import_module(module)
        except ImportError as error:
            also = f"Install what provides {error.name!r}, or r" if error.name else "R"
            raise RuntimeError(
                f"{module} cannot be imported: {error}. OpenCompass would report its classes as "
                f"missing from its registry. {also}einstall the package with its dependencies: "
                "pip install opencompass-llada"
            ) from error


def _share_log_handlers() -> None:
    """Let this package's log lines appear where OpenCompass's own do, also in task processes."""
    from opencompass.utils import get_logger

    own = logging.getLogger("opencompass_llada")
    if not own.handlers:
        own.handlers = list(get_logger().handlers)
        own.setLevel(logging.INFO)


_import_components()
_share_log_handlers()
