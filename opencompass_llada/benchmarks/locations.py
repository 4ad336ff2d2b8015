"""Where a benchmark's files lie: an asset, a plain folder, or where OpenCompass finds them.

Finds places; reads no data.
"""

from __future__ import annotations

import os
from pathlib import Path

from opencompass_llada.benchmarks.counting import MissingDataError, resolve_location


def find_data(path: str, *, benchmark: str, how_to_get: str) -> Path:
    """Find the folder, or the one file, of a benchmark's data.

    Args:
        path: ``asset:NAME``, a folder or file, or a data set id (``opencompass/needlebench``),
            which goes through COMPASS_DATA_CACHE, OpenCompass's own cache and download, or the
            hub if DATASET_SOURCE=HF. Without OpenCompass a path is looked for here and below
            COMPASS_DATA_CACHE, and nothing is downloaded.
        benchmark: Its name, for the error; in lower case the doctor's name of it.
        how_to_get: What to do where there is no data, for the error.

    Raises:
        MissingDataError: If there is nothing there and it cannot be downloaded.
    """
    location = Path(resolve_location(path))
    if location.exists():
        return location
    reason = "no such folder"
    if not location.is_absolute():
        try:
            location = opencompass_location(path)
        except Exception as error:
            location = _expected_location(path)
            first_line = str(error).partition("\n")[0][:200]
            reason = f"OpenCompass: {type(error).__name__}: {first_line}"
            if isinstance(error, ImportError):
                reason += "; only it knows data set ids and downloads them, without it give a path"
    if not location.exists():
        cache = os.environ.get("COMPASS_DATA_CACHE") or "not set"
        raise MissingDataError(
            f"{benchmark}'s data was not found at path={path!r} (looked at {location}; "
            f"COMPASS_DATA_CACHE is {cache}; {reason}). {how_to_get}",
            benchmark.lower().replace(" ", "_"),
        )
    return location


def opencompass_location(path: str) -> Path:
    """Return what OpenCompass resolves a data set id to, downloading it if need be."""
    from opencompass.utils import get_data_path

    location = get_data_path(path)
    if os.environ.get("DATASET_SOURCE") == "HF":
        from huggingface_hub import snapshot_download

        location = snapshot_download(repo_id=location, repo_type="dataset")
    return Path(location)


def _expected_location(path: str) -> Path:
    """Return where OpenCompass looks for a data set id before it downloads it.

    Without OpenCompass the same for a path, which it joins to its cache alike.
    """
    try:
        from opencompass.utils.datasets_info import DATASETS_MAPPING
    except ImportError:
        local = path
    else:
        local = DATASETS_MAPPING.get(path, {}).get("local", path)
    return Path(os.environ.get("COMPASS_DATA_CACHE", ""), local)
