"""Where RULER's data files lie, and their digests. Reads essays; questions are read elsewhere."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from opencompass_llada.datasets.counting import MissingDataError, resolve_location
from opencompass_llada.datasets.json_files import read_json_lines, take

HOW_TO_GET = (
    "Set COMPASS_DATA_CACHE to the folder whose data/ruler holds RULER's files "
    "(PaulGrahamEssays.jsonl, dev-v2.0.json of SQuAD 2.0, hotpotqa.json: HotpotQA's "
    "hotpot_dev_distractor_v1.json), give the folder itself as path=..., or run the tasks that "
    "need no files: niah_single_1, niah_multikey_2, niah_multikey_3, vt, cwe, fwe "
    "(LLADA_DATA=embedded runs all niah tasks on generated text)."
)


def find_file(path: str, name: str) -> Path:
    """Find one of RULER's files.

    Args:
        path: A folder, ``asset:NAME``, or a relative folder that OpenCompass looks for in
            COMPASS_DATA_CACHE and its own cache, and downloads (``data/ruler``).
        name: The file.

    Raises:
        MissingDataError: If it is not there and cannot be downloaded.
    """
    folder = Path(resolve_location(path))
    if folder.is_dir() or folder.is_absolute():
        file, reason = folder / name, "no such file"
    else:
        file, reason = _opencompass_file(path, name)
    if not file.is_file():
        cache = os.environ.get("COMPASS_DATA_CACHE") or "not set"
        raise MissingDataError(
            f"RULER's file {name!r} was not found at path={path!r} (looked at {file}; "
            f"COMPASS_DATA_CACHE is {cache}; {reason}). {HOW_TO_GET}",
            "ruler",
        )
    return file


def _opencompass_file(path: str, name: str) -> tuple[Path, str]:
    """Return where OpenCompass has or puts the file, and what went wrong."""
    from opencompass.utils import get_data_path

    wanted = os.path.join(path, name)
    try:
        return Path(get_data_path(wanted, local_mode=True)), "no such file"
    except Exception as error:
        expected = Path(os.environ.get("COMPASS_DATA_CACHE", ""), wanted)
        first_line = (str(error).splitlines() or [""])[0]
        return expected, f"OpenCompass: {type(error).__name__}: {first_line[:200]}"


def file_digest(path: Path) -> str:
    """Return a digest of a file's content; worked out once a process for an unchanged file."""
    facts = path.stat()
    return _digest(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=8)
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_essay_words(path: Path) -> tuple[str, ...]:
    """Return the words of all essays, as OpenCompass divides them."""
    return _essay_words(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _essay_words(path: Path, mtime_ns: int) -> tuple[str, ...]:
    rows = read_json_lines(path)
    texts = [take({"text": "", **row}, "text", where).strip() + " " for where, row in rows]
    return tuple(re.sub(r"\s+", " ", "".join(texts)).split(" "))
