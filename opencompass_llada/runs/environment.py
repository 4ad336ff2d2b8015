"""Checks that the installed packages are there and fit, before anything heavy is imported.

Compares versions only; imports none of the packages but `packaging`.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

PYTHON_RANGE = ((3, 10), (3, 13))


class EnvironmentFault(RuntimeError):
    """Something that has to be installed first; the message holds the command."""


def read_requirements(checkout: Path | None = None) -> list[str]:
    """Return the package's requirements, a line each: of a checkout, else of what is installed."""
    if checkout is not None:
        lines = (checkout / "requirements.txt").read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    required = metadata.requires("opencompass-llada") or []
    return [line for line in required if "extra ==" not in line]


def check_environment(requirements: list[str]) -> None:
    """Raise `EnvironmentFault`, with the pip command, if Python or a package does not fit."""
    low, high = PYTHON_RANGE
    if not low <= sys.version_info[:2] < high:
        raise EnvironmentFault(
            f"Python {sys.version.split()[0]} is not supported: OpenCompass 0.5 runs on "
            f"{low[0]}.{low[1]} to {high[0]}.{high[1] - 1}. Make an environment with one of them."
        )
    try:
        from packaging.requirements import Requirement
    except ImportError as error:
        raise EnvironmentFault(
            "None of the dependencies is installed in this Python. Run `make install` in the "
            "checkout and use .venv/bin/python, or: pip install opencompass-llada"
        ) from error
    faults, remedies = [], []
    for line in requirements:
        requirement = Requirement(line)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            faults.append(f"{requirement.name} is not installed")
            remedies.append(line)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{requirement.name} {version} does not fit {requirement.specifier}")
            remedies.append(line)
    if faults:
        packages = " ".join(f"'{line}'" for line in remedies)
        raise EnvironmentFault(
            f"{'; '.join(faults)}. Install what fits: {sys.executable} -m pip install {packages}"
        )
