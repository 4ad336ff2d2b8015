"""Finds files shipped with the package, addressed as ``asset:NAME`` in configs."""

from __future__ import annotations

from pathlib import Path

from opencompass_llada.options import unknown_name_message

PREFIX = "asset:"
FOLDER = Path(__file__).resolve().parent


def resolve_path(path: str) -> str:
    """Return a path or hub id as it is, or where it lies if it is ``asset:NAME``."""
    return str(resolve_asset(path)) if path.startswith(PREFIX) else path


def resolve_asset(name: str) -> Path:
    """Return where a shipped file or folder lies, NAME being a path below this folder."""
    path = FOLDER / name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or not path.exists():
        folders = [item.name for item in FOLDER.iterdir() if item.is_dir()]
        shipped = [PREFIX + folder for folder in folders if not folder.startswith("_")]
        raise ValueError(unknown_name_message("asset", name, shipped))
    return path
