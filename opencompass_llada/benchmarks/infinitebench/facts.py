"""States what is known of InfiniteBench: its twelve tasks, averages and files.

From OpenBMB/InfiniteBench (arXiv 2402.13718): tasks, categories and numbers of samples from its
README, base-model wordings from ``prompt.py`` (those of YaRN-Mistral).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencompass_llada.benchmarks.benchmark import Group
from opencompass_llada.benchmarks.published.suite import Suite


@dataclass(frozen=True, kw_only=True)
class InfiniteBenchTask:
    """One task."""

    title: str
    """Its name in the paper."""
    category: str
    """As in the paper's Table 2."""
    answer_length: int
    """Tokens of an answer. The authors' where a sentence fits in it; their 3 to 12 tokens for
    numbers and letters are for one tokenizer, with no word before, and are 32 here, 64 for the
    function with an error, whose letter comes after thinking."""
    num_samples: int
    """Published samples."""
    stock: str
    """OpenCompass's config, below ``opencompass.configs.datasets.infinitebench.infinitebench``."""
    base: tuple[str, str, str]
    """Wording of a base model: before the context, after it, and the answer's beginning."""
    chance: float | None = None
    """Score of a guess, 0 to 100."""


def _book(instruction: str, ending: str, begins: str) -> tuple[str, str, str]:
    return f"{instruction}\n\n", f"\n\n{ending}", begins


_OPTIONS = "A. {options[0]}\nB. {options[1]}\nC. {options[2]}\nD. {options[3]}"
#: Task -> what is known of it. A task is called as its file.
TASKS: dict[str, InfiniteBenchTask] = {
    "passkey": InfiniteBenchTask(
        title="Retrieve.PassKey",
        category="Retrieve",
        answer_length=32,
        num_samples=590,
        stock="retrievepasskey.infinitebench_retrievepasskey_gen_62ff68",
        base=_book(
            "There is an important info hidden inside a lot of irrelevant text. Find it and "
            "memorize it. I will quiz you about the important information.",
            "{input}",
            "\n\nThe pass key is",
        ),
    ),
    "number_string": InfiniteBenchTask(
        title="Retrieve.Number",
        category="Retrieve",
        answer_length=32,
        num_samples=590,
        stock="retrievenumber.infinitebench_retrievenumber_gen_047436",
        base=_book(
            "There is an important info hidden inside a lot of irrelevant text. Find it. I will "
            "quiz you about the important information there.",
            "{input}",
            "\n\nThe sequence of digits is",
        ),
    ),
    "kv_retrieval": InfiniteBenchTask(
        title="Retrieve.KV",
        category="Retrieve",
        answer_length=50,
        num_samples=500,
        stock="retrievekv.infinitebench_retrievekv_gen_06b3ac",
        base=_book(
            "Extract the value corresponding to the specified key in the JSON object below.",
            "{input}",
            "",
        ),
    ),
    "longbook_sum_eng": InfiniteBenchTask(
        title="En.Sum",
        category="Novel",
        answer_length=1200,
        num_samples=103,
        stock="ensum.infinitebench_ensum_gen_cfbc08",
        base=("Summarize the book below.\n\n", "", "\n\nSummary:"),
    ),
    "longbook_qa_eng": InfiniteBenchTask(
        title="En.QA",
        category="Novel",
        answer_length=40,
        num_samples=351,
        stock="enqa.infinitebench_enqa_gen_a1640c",
        base=_book(
            "Read the book and answer the question. Be very concise in your answer.",
            "Question: {input}",
            "\nAnswer:",
        ),
    ),
    "longbook_choice_eng": InfiniteBenchTask(
        title="En.MC",
        category="Novel",
        answer_length=40,
        num_samples=229,
        stock="enmc.infinitebench_enmc_gen_3a4102",
        base=_book(
            "Read the book and answer the question.",
            "Question: {input}\n" + _OPTIONS,
            "\n\nThe letter of the correct answer is",
        ),
        chance=25.0,
    ),
    "longbook_qa_chn": InfiniteBenchTask(
        title="Zh.QA",
        category="Novel",
        answer_length=40,
        num_samples=175,
        stock="zhqa.infinitebench_zhqa_gen_1e5293",
        base=_book("阅读以下书籍然后回答问题。", "问题：{input}", "\n答案："),
    ),
    "longdialogue_qa_eng": InfiniteBenchTask(
        title="En.Dia",
        category="Dialogue",
        answer_length=40,
        num_samples=200,
        stock="endia.infinitebench_endia_gen_c96eb5",
        base=(
            "Below is a dialogue script where one random occurrence of a character name is "
            'replaced with "$$MASK$$", and you should try to guess who that character is.\n\n',
            "",
            "\n\nThe name that has been replaced with $$MASK$$ is likely",
        ),
    ),
    "code_debug": InfiniteBenchTask(
        title="Code.Debug",
        category="Code",
        answer_length=64,
        num_samples=394,
        stock="codedebug.infinitebench_codedebug_gen_276a42",
        base=_book(
            "Following is a Python code where exactly one of the functions/methods has a "
            "deliberate error that makes it crash.",
            "Options:\n" + _OPTIONS,
            "\n\nThe correct option is:",
        ),
        chance=25.0,
    ),
    "code_run": InfiniteBenchTask(
        title="Code.Run",
        category="Code",
        answer_length=32,
        num_samples=400,
        stock="coderun.infinitebench_coderun_gen_1a76bd",
        base=_book(
            "There is a function called {func} in the following Python code.",
            "Please compute the exact value of {func_call}.",
            " The value of {func_call} is",
        ),
    ),
    "math_calc": InfiniteBenchTask(
        title="Math.Calc",
        category="Math",
        answer_length=30000,
        num_samples=50,
        stock="mathcalc.infinitebench_mathcalc_gen_78d17e",
        # The examples of values are OpenCompass's: the authors' begin with the expression's first
        # number, which their answers do not have.
        base=(
            "Let us calculate the intermediate values of an expression.\n\nExpression: 1 + 3 + 4\n"
            "Values: [4, 8]\n\nExpression: 8 - 3 + 2 - 4\nValues: [5, 7, 3]\n\nExpression: ",
            "",
            "\nValues:",
        ),
    ),
    "math_find": InfiniteBenchTask(
        title="Math.Find",
        category="Math",
        answer_length=32,
        num_samples=350,
        stock="mathfind.infinitebench_mathfind_gen_6d799e",
        base=_book("{prefix}", "{input}", ""),
    ),
}


def _list_groups() -> tuple[Group, ...]:
    categories = dict.fromkeys(task.category for task in TASKS.values())
    by_category = (
        Group(name=name, members=tuple(n for n, task in TASKS.items() if task.category == name))
        for name in categories
    )
    several = (group for group in by_category if len(group.members) > 1)
    return (Group(name="Average", members=tuple(TASKS)), *several)


def _find_files(cell: Mapping[str, Any]) -> list[str]:
    return [f"{cell['task']}.jsonl"]


SUITE = Suite(
    name="infinitebench",
    title="InfiniteBench",
    source="InfiniteBench (arXiv 2402.13718): Average is the mean of all twelve tasks",
    tasks={name: task.answer_length for name, task in TASKS.items()},
    path="data/InfiniteBench",
    folder="data/InfiniteBench",
    fetch="hf download xinrongzhang2022/InfiniteBench --repo-type dataset --local-dir FOLDER",
    find_files=_find_files,
    dataset="infinitebench.dataset.InfiniteBenchDataset",
    evaluator="infinitebench.dataset.InfiniteBenchEvaluator",
    has_more_metrics=True,
    groups=_list_groups(),
)
BENCHMARKS = (SUITE.benchmark(),)
