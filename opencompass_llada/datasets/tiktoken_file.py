"""Looks at the file that GPT-4's tokenizer is read from, without tiktoken.

tiktoken deletes a file whose hash is wrong and downloads it again; where there is no network that
loses the file. Here it is only read.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

#: Vocabulary -> name of its file (sha1 of its URL) and sha256 of its content, as tiktoken has them.
KNOWN_FILES = {
    "cl100k_base": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    )
}
STATES = ("present", "missing", "damaged")


def tiktoken_path(vocabulary: str = "cl100k_base") -> Path:
    """Return where tiktoken looks for a vocabulary's file."""
    variables = ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")
    named = next((os.environ[name] for name in variables if name in os.environ), None)
    folder = Path(named) if named else Path(tempfile.gettempdir()) / "data-gym-cache"
    return folder / KNOWN_FILES[vocabulary][0]


def tiktoken_state(vocabulary: str = "cl100k_base") -> str:
    """Return one of `STATES`; a damaged file is one that tiktoken would delete."""
    path = tiktoken_path(vocabulary)
    if not path.is_file():
        return "missing"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return "present" if digest == KNOWN_FILES[vocabulary][1] else "damaged"


def describe_damage(vocabulary: str = "cl100k_base") -> str:
    """Say what is wrong with a damaged file and what mends it."""
    path = tiktoken_path(vocabulary)
    return (
        f"{path} is not tiktoken's {vocabulary} file: its sha256 is not "
        f"{KNOWN_FILES[vocabulary][1][:16]}..., so that tiktoken would delete it. Copy the file "
        "again from a machine where tiktoken has run, or fetch it where there is a network: "
        f"rm {path} && python -c \"import tiktoken; tiktoken.get_encoding('{vocabulary}')\""
    )
