"""What a run needs of its machine, checked before anything loads: packages, text, a place to write.

Memory and processes are `fitting`'s and `devices`' business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from opencompass_llada.files import folder_lock
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.text import matching_files


def missing_package(key: str, package: str) -> ImportError:
    """Return the error for a recipe's key whose package is not installed."""
    return ImportError(f"{key} needs the package {package}: pip install {package}")


def check_surroundings(recipe: Recipe) -> None:
    """Check packages, text files and the output folder.

    Args:
        recipe: Checked by itself.

    Raises:
        ImportError: If a package that the recipe needs is missing.
        ValueError: If a path matches no file that can be read as text, or output_dir cannot be
            written to.
    """
    needed = {"lora": "peft"} if recipe.lora else {}
    if recipe.tensorboard:
        needed["tensorboard=true"] = "tensorboard"
    for key, package in needed.items():
        if find_spec(package) is None:
            raise missing_package(key, package)
    for source in (*recipe.text, *([recipe.evaluation.text] if recipe.evaluation.text else [])):
        matching_files(source)
    folder = Path(recipe.output_dir).absolute()
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError as error:  # a name that is too long, or links in a circle
        raise _not_writable(recipe, error.strerror or str(error)) from error
    if not there.is_dir():
        raise _not_writable(recipe, f"{str(there)!r} is a file")
    if not os.access(there, os.W_OK):
        raise _not_writable(recipe, f"no right to write to {str(there)!r}")


@contextmanager
def claim_output(recipe: Recipe) -> Iterator[None]:
    """Keep the output folder for this process; one that was made for it and stays empty goes again.

    Args:
        recipe: Names the folder.

    Raises:
        ValueError: If another process trains there, or it cannot be written to.
    """
    folder = Path(recipe.output_dir).absolute()
    with ExitStack() as stack:
        if not folder.exists():
            stack.callback(_remove_empty, folder)
        try:
            stack.enter_context(folder_lock(folder, "a training"))
        except OSError as error:
            raise _not_writable(recipe, error.strerror or str(error)) from error
        yield


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds a run
        folder.rmdir()


def _not_writable(recipe: Recipe, reason: str) -> ValueError:
    return ValueError(
        f"output_dir={recipe.output_dir!r} cannot be written: {reason}. Name another folder."
    )
