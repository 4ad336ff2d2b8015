"""A broken import of the package must say so, not end as a missing registry entry."""

import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("broken", ["opencompass_llada.wrapper", "opencompass_llada.sampling"])
def test_a_broken_import_is_named(broken, repository_root):
    script = LOOK_UP.format(root=str(repository_root), broken=broken)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: opencompass_llada.wrapper cannot be imported")
    assert "libexample" in last
    assert "pip install opencompass-llada" in last


def test_opencompass_finds_the_class_and_shows_its_log():
    import logging

    from opencompass.registry import MODELS

    from opencompass_llada.wrapper import LLaDACausalLM

    assert MODELS.get("opencompass_llada.wrapper.LLaDACausalLM") is LLaDACausalLM
    own = logging.getLogger("opencompass_llada")
    assert own.handlers
    assert own.isEnabledFor(logging.INFO)
