"""Goldens of the final prompt of every task, as the model receives it.

``python tests/prompt_goldens.py [NAME ...]`` writes tests/goldens again, all or those whose name
begins so; read what changed. What is real data needs COMPASS_DATA_CACHE and TIKTOKEN_CACHE_DIR, and
is written as its length and digest: no text of it is in the repository but for the question.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "goldens"
END = "<END OF PROMPT>"
FORMS = ("base", "chat")

# Bytes of a prompt; near the smallest that fit.
RULER_BYTES = {"vt": 1400, "cwe": 3600, "qa_squad": 1600, "qa_hotpotqa": 2600}
SUITE_BYTES = 1300
NEEDLE_BYTES = {"single": 900, "multi_retrieval": 1500, "multi_reasoning": 900}
LANGUAGES = {"en": "English", "zh": "Chinese"}
REASONING = {
    "en": dict(derivations=["Ana's ship is the Wren", "the Wren lies at Port Odel"],
               question="Where does Ana's ship lie", answer="Port Odel"),
    "zh": dict(derivations=["小安的船叫白鹭", "白鹭停在青石港"],
               question="小安的船停在哪里", answer="青石港"),
}  # fmt: skip


def list_goldens() -> dict[str, Callable[[str], list[str]]]:
    """Return, by the golden's name, what makes its prompts for each of `FORMS`."""
    from opencompass_llada.benchmarks.generated.task import list_suites
    from opencompass_llada.benchmarks.longbench.facts import TASKS as LONGBENCH
    from opencompass_llada.benchmarks.ruler.prompts import TASKS as RULER

    made = {f"ruler/{task}": lambda form, t=task: ruler_cell(t, form) for task in RULER}
    for task in ("niah_single_2", "qa_squad", "qa_hotpotqa"):
        made[f"ruler/real_{task}"] = lambda form, t=task: ruler_cell(t, form, real=True)
    for task in LONGBENCH:
        made[f"longbench/{task}"] = lambda form, t=task: longbench_cell(t)
    for kind in NEEDLE_BYTES:
        for language in LANGUAGES:
            for prefix in ("", "real_"):
                made[f"needlebench/{prefix}{kind}_{language}"] = (
                    lambda form, k=kind, g=language, r=bool(prefix): needle_cell(k, g, form, real=r)
                )
    for suite in list_suites():
        for language in LANGUAGES:
            made[f"generated/{suite}_{language}"] = lambda form, s=suite, g=language: suite_cell(
                s, g, form
            )
    return made


def write_golden(name: str) -> str:
    """Return a golden's text: the prompts of a base model and of a chat model."""
    from prompt_capture import CHAT_TEMPLATE, received_prompts

    lines = [f"Written by: python tests/prompt_goldens.py {name}"]
    for form in FORMS:
        cell = list_goldens()[name](form)
        (prompt,) = received_prompts([cell], CHAT_TEMPLATE if form == "chat" else None)
        if "/real_" in name:
            prompt = hide_data(prompt)
        lines.append(f"--- {form} model ---\n{prompt}{END}")
    return "\n".join(lines) + "\n"


def read_golden(name: str) -> str:
    """Return a golden as it is in the repository."""
    return (FOLDER / f"{name}.txt").read_bytes().decode()


def base_prompt(golden: str) -> str:
    """Return the prompt of a base model out of a golden."""
    return golden.split("--- base model ---\n")[1].split(END)[0]


def ruler_cell(task: str, form: str, real: bool = False) -> dict[str, Any]:
    """Return the config of one sample of a RULER task."""
    from prompt_capture import byte_checkpoint

    from opencompass_llada.ruler_patches.ruler import ruler_cells

    data = "ruler" if real else own_data("ruler")
    size = 4096 if real else RULER_BYTES.get(task, 1000)
    tokenizer = "gpt-4" if real else byte_checkpoint()
    (cell,) = ruler_cells(
        lengths=[size], tasks=[task], tokenizer=tokenizer, samples=1, data=data,
        prompt="chat" if form == "chat" else "base",
    )  # fmt: skip
    if not real:
        cell["tokens_to_generate"] = 32
    return cell


def suite_cell(suite: str, language: str, form: str) -> dict[str, Any]:
    """Return the config of one sample of a generated suite's first level."""
    from prompt_capture import byte_checkpoint

    from opencompass_llada.runs.planning import list_data_sets

    (cell,) = list_data_sets(
        suite, levels=[1], lengths=[SUITE_BYTES], samples=1, language=language,
        tokenizer=byte_checkpoint(), prompt=form,
    )  # fmt: skip
    return cell


def longbench_cell(task: str) -> dict[str, Any]:
    """Return the config of one row of our own of a LongBench task."""
    from opencompass_llada.runs.planning import list_data_sets

    (cell,) = list_data_sets("longbench", tasks=[task], data=own_data("longbench"))
    return cell


def needle_cell(kind: str, language: str, form: str, real: bool = False) -> dict[str, Any]:
    """Return the config of one sample of a NeedleBench set, needles in the middle."""
    from prompt_capture import byte_checkpoint

    from opencompass_llada.needlebench import multi, niah

    options = dict(
        language=language, lengths=[2000] if real else [NEEDLE_BYTES[kind]], repeats=1,
        tokenizer="gpt-4" if real else byte_checkpoint(),
        prompt="chat" if form == "chat" else "base",
        data="needlebench" if real else own_data("needlebench"), generation_length=16,
    )  # fmt: skip
    if kind == "single":
        cells = niah.niah_cells(depths=[50], **options)
    elif kind == "multi_retrieval":
        cells = multi.multi_needle_cells("retrieval", depths=[30, 70], **options)
    else:
        cells = multi.multi_needle_cells("reasoning", depths=[30], gap=40, **options)
    (cell,) = cells
    if not real:
        cell["file_list"] = [{"en": "synthetic_en.jsonl", "zh": "zh_all.jsonl"}[language]]
    return cell


@lru_cache(maxsize=3)
def own_data(benchmark: str) -> str:
    """Write data of our own in a benchmark's published format and return its folder."""
    folder = Path(tempfile.mkdtemp(prefix=benchmark))
    if benchmark == "ruler":
        from ruler_data import write_ruler

        write_ruler(folder)
    elif benchmark == "needlebench":
        from needle_data import write_needlebench

        write_needlebench(folder)
        for language, row in REASONING.items():
            text = json.dumps([{"id": "1", "derivation_count": 2, **row}])
            (folder / f"multi_needle_reasoning_{language}.json").write_text(text)
    else:
        write_longbench(folder)
    return str(folder)


def write_longbench(folder: Path) -> None:
    """Write a row for each of LongBench's tasks, with what looks like a placeholder in it."""
    from opencompass_llada.benchmarks.longbench.facts import TASKS

    for name, task in TASKS.items():
        chinese = task.language == "zh"
        row = dict(
            context="第一段。{idx}\n第二段。" if chinese else "First line. {idx}\nSecond line.",
            input="这是什么？" if chinese else "What is this?",
            answers=["one", "two"], length=4, all_classes=["one", "two", "three"],
        )  # fmt: skip
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")


def hide_data(prompt: str) -> str:
    """Replace all texts of published data but the question by their lengths and digests."""
    for pattern in HIDDEN:
        prompt = re.sub(pattern, _digest, prompt, flags=re.DOTALL)
    return prompt


# Head, text, tail: RULER's documents and essays, NeedleBench's document in both languages.
HIDDEN = (
    r"(Document \d+:\n)(.*?)(\n\n(?=Document \d+:\n|Answer the question))",
    r"(about the numbers? afterwards\.\n)(.*)(\nWhat (?:is|are) )",
    r"(given to you by the user is )(.*)(\n\nNow, the question)",
    r"(用户现在给你的文档是)(.*)(\n\n现在请问)",
)


def _digest(match: re.Match[str]) -> str:
    digest = hashlib.sha256(match[2].encode()).hexdigest()[:16]
    return f"{match[1]}<{len(match[2]):,} characters, sha256 {digest}>{match[3]}"


def chosen(names: list[str]) -> Iterator[str]:
    """Yield the goldens whose names begin with any of the given ones; all if none is given."""
    for name in list_goldens():
        if not names or name.startswith(tuple(names)):
            yield name


def main() -> None:
    """Write the goldens that the command line names."""
    sys.path.insert(0, str(ROOT))
    os.environ["OPENCOMPASS_LLADA_CACHE"] = "none"
    for name in chosen(sys.argv[1:]):
        path = FOLDER / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(write_golden(name), encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
