"""Fixtures that more than one test file uses; settings that every test runs under."""

import gc
import os
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from opencompass_llada.runs.quick_imports import imports_uncollected

REPOSITORY_ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without looking for garbage: 16.7 s of a core, not 21.0 (2026-11-30)."""
    with imports_uncollected():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep every test on one thread; skip tests marked `gpu` where there is no CUDA device.

    On one thread the suite's time is the same beside other work. Torch is imported here, since the
    process that starts xdist's workers, for which they wait, collects no tests. Garbage is looked
    for less often than by Python's default, since what the tests import is a million objects: three
    files took 25 s of a core, not 29 (2026-11-30).
    """
    import torch

    torch.set_num_threads(1)
    gc.set_threshold(50_000, 20, 10)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """Return the checkout's top folder."""
    return REPOSITORY_ROOT


@pytest.fixture(scope="session")
def published_files() -> Callable[[str], Path]:
    """Return what finds a published checkpoint's files without weights, or skips.

    Looked for as `data/published/NAME` where `real_data_root` looks.
    """

    def find(name: str) -> Path:
        own = os.environ.get("COMPASS_DATA_CACHE")
        for root in ([Path(own)] if own else []) + [REPOSITORY_ROOT.parent / "shared"]:
            if (folder := root / "data/published" / name).is_dir():
                return folder.resolve()
        pytest.skip(f"no published files of {name}: COMPASS_DATA_CACHE/data/published holds none")

    return find


@pytest.fixture(scope="session")
def real_data_root() -> Path:
    """Return the folder that holds `data/needlebench` and the like, as COMPASS_DATA_CACHE means it.

    Looked for in $COMPASS_DATA_CACHE, then in `shared` beside the checkout; skips where neither
    holds data.
    """
    candidates = [REPOSITORY_ROOT.parent / "shared"]
    if os.environ.get("COMPASS_DATA_CACHE"):
        candidates.insert(0, Path(os.environ["COMPASS_DATA_CACHE"]))
    for candidate in candidates:
        if (candidate / "data" / "needlebench").is_dir():
            return candidate.resolve()
    pytest.skip("no real data: set COMPASS_DATA_CACHE to a folder that holds data/needlebench")
