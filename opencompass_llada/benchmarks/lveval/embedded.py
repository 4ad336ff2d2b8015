"""Makes a few rows of each LV-Eval task, in the published layout and small.

They show the way through and measure nothing that the suite measures; no published text is in them.
"""

from __future__ import annotations

import random
from typing import Any

from opencompass_llada.benchmarks.lveval.facts import TASKS
from opencompass_llada.synthetic.grammar import draw_held_out, paragraph

Row = dict[str, Any]
NUM_ROWS = 3
#: Passages of a context: prompts of some 400 to 800 of tiny-llada's tokens.
_SIZE = {"en": 12, "zh": 10}
_NAMES = ("小明", "小红", "老王", "阿强", "小丽", "老张", "大伟", "阿芳", "小龙", "老赵")
_THINGS = ("红苹果", "蓝书包", "黄帽子", "白杯子", "黑雨伞", "绿气球")


def list_rows(task: str) -> list[Row]:
    """Return the rows of a task, the same at every call."""
    rng = random.Random(f"lveval-{task}")
    return [_make_row(task, rng) for _ in range(NUM_ROWS)]


def _make_row(task: str, rng: random.Random) -> Row:
    language = TASKS[task].language
    passages, question, answer = _english(rng) if language == "en" else _chinese(rng)
    context = "\n\n".join(
        (f"### Passage {n}\n{text}" if language == "en" else f"文章 {n}\n{text}")
        for n, text in enumerate(passages, start=1)
    )
    keywords = {"answer_keywords": answer} if TASKS[task].metric == "keyword_f1" else {}
    return {
        "input": question, "context": context, "answers": [answer], "length": len(context),
        "dataset": task, "language": language, "confusing_facts": "", **keywords,
    }  # fmt: skip


def _english(rng: random.Random) -> tuple[list[str], str, str]:
    needle = draw_held_out(rng)
    passages = [paragraph(rng, 1) for _ in range(_SIZE["en"])]
    passages.insert(rng.randrange(len(passages)), needle.fact)
    return passages, needle.question, needle.value


def _chinese(rng: random.Random) -> tuple[list[str], str, str]:
    names = rng.sample(_NAMES, k=_SIZE["zh"])
    things = [rng.choice(_THINGS) for _ in names]
    asked = rng.randrange(len(names))
    passages = [f"{name}有一个{thing}。" for name, thing in zip(names, things, strict=True)]
    return passages, f"{names[asked]}有什么？", things[asked]
