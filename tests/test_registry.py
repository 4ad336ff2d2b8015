"""A broken import of the package must say so, not end as a missing registry entry."""

import re
import subprocess
import sys

import pytest
from config_forms import NAMES, cells_of
from mmengine.config import Config

from opencompass_llada.old_names import dotted_name
from opencompass_llada.runs.settings import only_variables

LOOK_UP = """
import sys
sys.path.insert(0, {root!r})
import importlib.abc

class Breaker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {broken!r}:
            raise ImportError("no module named libexample", name="libexample")

sys.meta_path.insert(0, Breaker())
from mmengine.registry import Registry
models = Registry("model")
models.get("opencompass_llada.wrapper.LLaDACausalLM")
"""


@pytest.mark.parametrize(
    "broken", ["opencompass_llada.wrapper.model", "opencompass_llada.sampling"]
)
def test_a_broken_import_is_named(broken, repository_root):
    script = LOOK_UP.format(root=str(repository_root), broken=broken)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: opencompass_llada.wrapper.model cannot be imported")
    assert "libexample" in last
    assert "pip install opencompass-llada" in last


def texts_of(value):
    """Yield every text of a config's value, classes as dotted names."""
    if isinstance(value, dict):
        yield from texts_of(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item)
    else:
        yield dotted_name(value) if isinstance(value, type) else str(value)


def test_every_class_that_a_config_names_is_imported(repository_root, monkeypatch):
    from opencompass_llada.registry import MODULES

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    files = [
        *repository_root.glob("configs/eval_*.py"),
        *repository_root.glob("configs/summ*/*.py"),
    ]
    with only_variables({}):
        configs = [
            Config.fromfile(str(path), lazy_import=True).to_dict()
            for path in files
            if path.stem not in ("__init__", "eval_llada_datasets")  # those are read below
        ]
    named = set(texts_of([configs, [cells_of(name) for name in NAMES]]))
    pattern = re.compile(r"(opencompass_llada(?:\.[a-z_0-9]+)+)\.[A-Z][A-Za-z0-9]+")
    modules = {match[1] for name in named if (match := pattern.fullmatch(name))}
    assert len(modules) > 10, "the walk must have seen the configs' classes"
    assert modules <= set(MODULES), f"missing: {sorted(modules - set(MODULES))}"


def test_opencompass_finds_the_class_and_shows_its_log():
    import logging

    from opencompass.registry import MODELS

    from opencompass_llada.wrapper import LLaDACausalLM

    assert MODELS.get("opencompass_llada.wrapper.LLaDACausalLM") is LLaDACausalLM
    own = logging.getLogger("opencompass_llada")
    assert own.handlers
    assert own.isEnabledFor(logging.INFO)
