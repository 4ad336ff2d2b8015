"""States what is known of the short-context benchmarks, which are OpenCompass's own.

Settings as published for LLaDA's own evaluation, github.com/ML-GSAI/LLaDA: EVAL.md (answer and
block lengths, guidance, the two options on end tokens) and eval_llada_lm_eval.sh (draws, examples);
one denoising step a token throughout. No classifier-free guidance, as in Table 1 of the paper
(arXiv 2502.09992).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from opencompass_llada.benchmarks.benchmark import ANY_METRIC, DataFiles

#: Tasks of a base model: four generate, the others choose by likelihood.
GENERATION_TASKS = ("gsm8k", "math", "humaneval", "mbpp")
LIKELIHOOD_TASKS = ("mmlu", "arc_c", "hellaswag", "winogrande")
ALL_TASKS = (*GENERATION_TASKS, *LIKELIHOOD_TASKS)
#: Chat models generate all answers; there is no published setting for Winogrande.
CHAT_TASKS = (*GENERATION_TASKS, "mmlu", "arc_c", "hellaswag")
#: The sample set that comes with the package, for tiny models: the way through, no measurement.
EMBEDDED_TASKS = ("gsm8k", "math", *LIKELIHOOD_TASKS)

Generation = dict[str, Any]


def _generate(length: int, block_length: int | None = None, **ends: bool) -> Generation:
    """Return an answer's length, its blocks and steps, and the option on end tokens."""
    return {
        "max_out_len": length, "block_length": block_length or length, "num_steps": length, **ends
    }  # fmt: skip


#: LLaDA-8B-Base in OpenCompass. Its Table 1 has 1,024 of each, and scores within 3 points of these.
BASE_SHORT = _generate(256)
EMBEDDED_SHORT = {**_generate(16), "num_steps": 4}
#: Where a base model goes on with a next example of its own.
BASE_STOPS = {
    "gsm8k": ["Question:"],
    "math": ["Problem:"],
    "mbpp": ["[DONE]"],
    # lm-evaluation-harness's for HumanEval: what cannot be part of the function.
    "humaneval": ["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
}
#: Masks drawn for an option (mc_num); MMLU's single letter takes one pass, there and here.
LIKELIHOOD_DRAWS = 128
EMBEDDED_DRAWS = 4
#: The usual number for these two, lm-evaluation-harness's acc_norm; it counts characters.
LIKELIHOOD_PER = {"arc_c": "byte", "hellaswag": "byte"}

_LAST_ENDS = {"suppress_eos_eot_confidence": True}  # confidence_eos_eot_inf
_NO_END = {"suppress_eos_logits": True}  # logits_eos_inf
#: LLaDA-8B-Instruct, pure diffusion sampling: the paper's Tables 1 and 2.
INSTRUCT_SHORT = {
    "gsm8k": _generate(512, **_LAST_ENDS),
    "math": _generate(512, **_LAST_ENDS),
    "humaneval": _generate(512, **_NO_END),
    "mbpp": _generate(256, **_LAST_ENDS),
    "mmlu": _generate(3),
    "arc_c": _generate(512),
    "hellaswag": _generate(3),
}
LLADA_1_5_SHORT = {
    **INSTRUCT_SHORT,  # what is not published for LLaDA-1.5: mmlu, arc_c and hellaswag
    "gsm8k": _generate(256, 16, **_LAST_ENDS),
    "math": _generate(1024, 128, **_LAST_ENDS),
    "humaneval": _generate(512, 32, **_LAST_ENDS),
    "mbpp": _generate(512, 32, **_LAST_ENDS),
}

#: Data set id -> folder below the cache and a name in it.
_STOCK_FILES = {
    "opencompass/gsm8k": ("data/gsm8k", "test.jsonl"),
    "opencompass/math": ("data/math", "math.json"),
    "opencompass/humaneval": ("data/humaneval", "human-eval-v2-20210705.jsonl"),
    "opencompass/mbpp": ("data/mbpp", "mbpp.jsonl"),
    "opencompass/mmlu": ("data/mmlu", "test"),
    "opencompass/ai2_arc-dev": ("data/ARC/ARC-c", "ARC-Challenge-Dev.jsonl"),
    "opencompass/hellaswag": ("data/hellaswag", "hellaswag.jsonl"),
    "opencompass/winogrande": ("data/winogrande", "dev.jsonl"),
}


def _needed(dataset: Mapping[str, Any], kind: str) -> Iterator[tuple[str, list[str]]]:
    path = str(dataset.get("path"))
    if path in _STOCK_FILES:
        yield path, [_STOCK_FILES[path][1]]


BENCHMARKS = (
    replace(
        ANY_METRIC,  # each data set is a benchmark of its own in reports
        name="short",
        title="Short context",
        source="LLaDA (arXiv 2502.09992), tables 1 and 2",
        data=DataFiles(
            name="short context",
            folders={path: folder for path, (folder, _) in _STOCK_FILES.items()},
            files=(),
            fetch="",
            needed=_needed,
        ),
        plan="opencompass_llada.benchmarks.short.plan",
    ),
)
