"""Makes a few rows of each InfiniteBench task, in the published layout and small.

They show the way through and measure nothing that the suite measures; no published text is in them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from opencompass_llada.synthetic.grammar import draw_held_out, expand, fill, paragraph

Row = dict[str, Any]
NUM_ROWS = 4
#: Sentences, lines or items of a context: prompts of some 200 to 450 of tiny-llada's tokens.
_SIZE = 8


def list_rows(task: str) -> list[Row]:
    """Return the rows of a task, the same at every call."""
    rng = random.Random(f"infinitebench-{task}")
    return [{"id": number, **_MAKERS[task](rng)} for number in range(NUM_ROWS)]


def _hidden(rng: random.Random, fact: str, question: str, answer: str) -> Row:
    """Hide a line in noise."""
    lines = [paragraph(rng, 1) for _ in range(_SIZE)]
    lines.insert(rng.randrange(_SIZE), fact)
    return {"context": "\n".join(lines), "input": question, "answer": [answer]}


def _passkey(rng: random.Random) -> Row:
    key = str(rng.randrange(10000, 100000))
    fact = f"The pass key is {key}. Remember it. {key} is the pass key."
    return _hidden(rng, fact, "What is the pass key?", key)


def _number_string(rng: random.Random) -> Row:
    key = "".join(2 * rng.choice("0123456789") for _ in range(5))
    fact = f"The sequence of digits is {key}. Remember it. {key} is the sequence of digits."
    return _hidden(rng, fact, "What is the sequence of digits?", key)


def _kv_retrieval(rng: random.Random) -> Row:
    pairs = [tuple(f"{rng.getrandbits(32):08x}" for _ in range(2)) for _ in range(_SIZE)]
    key, value = rng.choice(pairs)
    context = "JSON data:\n{" + ", ".join(f'"{k}": "{v}"' for k, v in pairs) + "}"
    asked = f'\nKey: "{key}"\nThe value associated with the specified key is: '
    return {"context": context, "input": asked, "answer": [value]}


def _book(rng: random.Random) -> tuple[str, Any]:
    """Return a book and a fact that is in it."""
    needle = draw_held_out(rng)
    lines = [paragraph(rng, 1) for _ in range(_SIZE)]
    lines.insert(rng.randrange(_SIZE), needle.fact)
    return "\n".join(lines), needle


def _book_question(rng: random.Random) -> Row:
    context, needle = _book(rng)
    return {"context": context, "input": needle.question, "answer": [needle.value]}


def _summary(rng: random.Random) -> Row:
    first = paragraph(rng, 2)
    context = f"{first}\n{paragraph(rng, _SIZE)}"
    return {"context": context, "input": "", "answer": [first]}


def _choice(rng: random.Random) -> Row:
    context, needle = _book(rng)
    return {
        "context": context,
        "input": needle.question,
        **_options(rng, needle.value, lambda: draw_held_out(rng).value),
    }


def _options(rng: random.Random, answer: str, draw: Callable[[], str]) -> Row:
    options = [answer]
    while len(options) < 4:
        other = draw()
        options += [other] if other not in options else []
    rng.shuffle(options)
    return {"options": options, "answer": [answer]}


def _chinese_question(rng: random.Random) -> Row:
    names = rng.sample(("小明", "小红", "老王", "阿强", "小丽", "老张"), k=6)
    things = rng.sample(("红苹果", "蓝书包", "黄帽子", "白杯子", "黑雨伞", "绿气球"), k=6)
    lines = [f"{name}有一个{thing}。" for name, thing in zip(names, things, strict=True)]
    asked = rng.randrange(6)
    return {
        "context": "\n".join(lines), "input": f"{names[asked]}有什么？", "answer": [things[asked]],
    }  # fmt: skip


def _dialogue(rng: random.Random) -> Row:
    names = sorted({fill("{Name}", rng).split()[0].upper() for _ in range(12)})[:3]
    lines = [(rng.choice(names), expand("sentence", rng)) for _ in range(_SIZE)]
    masked = rng.randrange(_SIZE)
    script = [
        f"{'$$MASK$$' if number == masked else name}: {text}"
        for number, (name, text) in enumerate(lines)
    ]
    return {"context": "\n".join(script), "input": "", "answer": [lines[masked][0]]}


def _functions(rng: random.Random) -> tuple[list[str], list[int]]:
    names = [f"func_{number}" for number in rng.sample(range(1000), k=_SIZE)]
    return names, [rng.randrange(1, 10) for _ in names]


def _code_run(rng: random.Random) -> Row:
    names, added = _functions(rng)
    code = [f"def {n}(x):\n    return x + {a}\n" for n, a in zip(names, added, strict=True)]
    asked, value = rng.randrange(_SIZE), rng.randrange(10)
    question = f"Please give me the exact number of the return value of {names[asked]}({value})."
    return {"context": "\n".join(code), "input": question, "answer": [value + added[asked]]}


def _code_debug(rng: random.Random) -> Row:
    names, added = _functions(rng)
    wrong = rng.randrange(_SIZE)
    code = [
        f"def {name}(x):\n    return {'y' if number == wrong else 'x'} + {add}\n"
        for number, (name, add) in enumerate(zip(names, added, strict=True))
    ]
    question = "Which function has a deliberate error?"
    options = _options(rng, names[wrong], lambda: rng.choice(names))
    return {"context": "\n".join(code), "input": question, **options}


def _math_calc(rng: random.Random) -> Row:
    value = rng.randrange(20, 100)
    expression, values = [str(value)], []
    for _ in range(_SIZE):
        step = rng.randrange(-min(value, 20), 20)
        value += step
        expression.append(f"{'-' if step < 0 else '+'} {abs(step)}")
        values.append(value)
    return {"context": " ".join(expression), "input": "", "answer": values}


def _math_find(rng: random.Random) -> Row:
    numbers = [rng.randrange(100) for _ in range(4 * _SIZE)]
    which, pick = rng.choice((("largest", max), ("smallest", min)))
    asked = (
        "You should answer with only one number, no other words. "
        f"The {which} number of the list is: "
    )
    return {"context": str(numbers), "input": asked, "answer": [pick(numbers)]}


_MAKERS: dict[str, Callable[[random.Random], Row]] = {
    "passkey": _passkey,
    "number_string": _number_string,
    "kv_retrieval": _kv_retrieval,
    "longbook_sum_eng": _summary,
    "longbook_qa_eng": _book_question,
    "longbook_choice_eng": _choice,
    "longbook_qa_chn": _chinese_question,
    "longdialogue_qa_eng": _dialogue,
    "code_debug": _code_debug,
    "code_run": _code_run,
    "math_calc": _math_calc,
    "math_find": _math_find,
}
