"""Files shipped with the package, addressed as ``asset:NAME`` in configs."""

from __future__ import annotations

from pathlib import Path

from opencompass_llada.options import unknown_name_message

PREFIX = "asset:"
FOLDER = Path(__file__).resolve().parent


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
        shipped = [f"{PREFIX}{entry.name}" for entry in FOLDER.iterdir() if entry.is_dir()]
        raise ValueError(unknown_name_message("asset", name, shipped))
    return path
