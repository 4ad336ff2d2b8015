"""The final prompt of each task equals its golden, which was read by a person.

Re-record with ``python tests/prompt_goldens.py`` and read what changed.
"""

import pytest
from prompt_goldens import base_prompt, hide_data, list_goldens, read_golden, write_golden

from opencompass_llada.benchmarks.longbench.facts import TASKS as LONGBENCH
from opencompass_llada.benchmarks.ruler.prompts import TASKS as RULER

NAMES = list(list_goldens())
# Where the originals end in white space: LongBench's code tasks in a line break, these in a space.
ENDS_IN_LINE_BREAK = ("longbench/lcc", "longbench/repobench-p")
ENDS_IN_SPACE = ("ruler/vt", "longbench/passage_count", "longbench/passage_retrieval_en")
RULER_ENDINGS = {
    "niah": (" mentioned in the provided text is", " mentioned in the provided text are"),
    "vt": (" variables are assigned the value 47194, they are: ",),
    "cwe": (" words that appear most often in the list are:",),
    "fwe": (" the three most frequently appeared words are:",),
    "qa": ("? Answer:",),
}
NEEDLE_ENDINGS = {
    "single_en": " The item hidden on Isle3 is",
    "single_zh": "Isle3上隐藏的物品是",
    "multi_retrieval_en": " The item hidden on Isle1 is",
    "multi_retrieval_zh": "Isle3上隐藏的物品是",
    "multi_reasoning_en": " The answer is",
    "multi_reasoning_zh": "答案是",
    "real_single_en": " The legendary item hidden on the Emerald Island is",
    "real_single_zh": "翡翠岛上隐藏的传说中的物品是",
}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", "none")
    for name in ("TOKENIZER_MODEL", "DATASET_SOURCE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_final_prompt_is_the_golden(name, request, monkeypatch):
    if "/real_" in name:
        root = request.getfixturevalue("real_data_root")
        for part in ("ruler", "tiktoken"):
            if not (root / "data" / part).is_dir():
                pytest.skip(f"no data/{part}: set COMPASS_DATA_CACHE")
        monkeypatch.setenv("COMPASS_DATA_CACHE", str(root))
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(root / "data/tiktoken"))
    assert write_golden(name) == read_golden(name)


def test_every_task_has_a_golden():
    found = set(NAMES)
    assert len(RULER) == 13
    assert {f"ruler/{task}" for task in RULER} <= found
    assert len(LONGBENCH) == 21
    assert {f"longbench/{task}" for task in LONGBENCH} <= found
    for language in ("en", "zh"):
        kinds = ("single", "multi_retrieval", "multi_reasoning")
        assert {f"needlebench/{kind}_{language}" for kind in kinds} <= found


@pytest.mark.parametrize("name", NAMES)
def test_base_prompts_end_in_the_answer_prefix(name):
    """What a reader looks for in the goldens, so that re-recording cannot lose it."""
    prompt = base_prompt(read_golden(name))
    benchmark, task = name.split("/")
    if name in ENDS_IN_LINE_BREAK:
        assert prompt.endswith("Next line of code:\n")
    elif name in ENDS_IN_SPACE:
        assert prompt.endswith(" is: ") or prompt.endswith(" are: ")
        assert prompt[:-1] == prompt.rstrip()
    else:
        assert prompt == prompt.rstrip(), "no line break and no space after the prefix"
    if benchmark == "ruler":
        kind = task.removeprefix("real_").split("_")[0]
        assert prompt.endswith(RULER_ENDINGS[kind])
    if benchmark == "needlebench" and task in NEEDLE_ENDINGS:
        assert prompt.endswith(NEEDLE_ENDINGS[task])
    if benchmark == "needlebench":
        assert "____" not in prompt, "the format hint is for chat models"


def test_real_data_is_not_in_the_goldens():
    for name in NAMES:
        if "/real_" in name:
            golden = read_golden(name)
            assert "sha256" in golden
            assert max(len(line) for line in golden.splitlines()) < 400, name
    text = "The document given to you by the user is SECRET\n\nNow, the question is: Q"
    assert "SECRET" not in hide_data(text)
