"""Files shipped with the package, addressed as ``asset:NAME`` in configs."""

from __future__ import annotations

from pathlib import Path

from opencompass_llada.options import unknown_name_message

PREFIX = "asset:"
FOLDER = Path(__file__).resolve().parent


def resolve_path(path: str) -> str:
    """Return a path as it is, or where it lies if it is ``asset:NAME``.

    Args:
        path: A folder, a hub id or ``asset:NAME``.

    Returns:
        A folder or a hub id.

    Raises:
        ValueError: If no asset of that name is shipped.
    """
    return str(resolve_asset(path)) if path.startswith(PREFIX) else path


def resolve_asset(name: str) -> Path:
    """Return where a shipped file or folder lies.

    Args:
        name: ``asset:NAME``, NAME being a path below this folder.

    Returns:
        An existing path.

    Raises:
        ValueError: If nothing of that name is shipped; the nearest name is given.
    """
    path = FOLDER / name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or not path.exists():
        folders = [entry.name for entry in FOLDER.iterdir() if entry.is_dir()]
        shipped = [PREFIX + folder for folder in folders if not folder.startswith("_")]
        raise ValueError(unknown_name_message("asset", name, shipped))
    return path
