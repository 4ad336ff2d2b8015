"""Chat checkpoints asked as base models, and base models asked in chat form, are named once."""

import shutil

import pytest

from opencompass_llada.assets import FOLDER
from opencompass_llada.runs.chat_forms import warn_of_chat_forms

WRAPPER = "opencompass_llada.wrapper.LLaDACausalLM"
CELL = {"type": "opencompass_llada.benchmarks.needle.dataset.NeedleBenchSingleDataset"}


def warn(models, dataset=CELL):
    models = [
        {"type": WRAPPER, "abbr": f"m{n}", "path": path, **options}
        for n, (path, options) in enumerate(models)
    ]
    warn_of_chat_forms({"models": models, "datasets": [{"abbr": "d", **dataset}]})


@pytest.fixture
def with_template(tmp_path):
    folder = shutil.copytree(FOLDER / "tiny-llada", tmp_path / "mine")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    return str(folder)


def test_one_warning_names_all_and_the_remedy(caplog, with_template):
    warn(
        [
            ("GSAI-ML/LLaDA-8B-Instruct", {}),
            ("someone/My-LLaDA-Chat", {}),
            (with_template, {}),
            ("GSAI-ML/LLaDA-8B-Base", {}),
            ("asset:tiny-llada", {}),
        ]
    )
    [record] = caplog.records
    for told in (
        *("m0 (docs/reference/models.md says so)", "m1 (its name says Chat)"),
        *("m2 (its tokenizer has a chat template)", "chat=True", "LLADA_PROMPT=chat"),
    ):
        assert told in record.message
    assert "m3" not in record.message
    assert "m4" not in record.message


def test_a_base_model_in_chat_form(caplog):
    warn([("GSAI-ML/LLaDA-8B-Base", {"chat": True}), ("GSAI-ML/LLaDA-8B-Instruct", {"chat": True})])
    [record] = caplog.records
    assert "though base models: m0" in record.message
    assert "m1" not in record.message


def test_nothing_is_said_of_what_is_as_it_should_be(caplog, with_template):
    warn([(with_template, {"chat": True}), ("someone/llada-split", {})])
    warn(
        [("GSAI-ML/LLaDA-8B-Instruct", {})],
        {"type": "x.PerplexityDataset", "benchmark": "perplexity"},
    )
    assert not caplog.records
