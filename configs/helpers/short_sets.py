"""Data sets of the short-context benchmarks: OpenCompass's own, set up for base or chat models.

Loaders, few-shot examples, post-processing and scores are OpenCompass's. For a base model the
prompt ends where its answer begins, with no turn after it, and multiple choice is by likelihood of
the options given the rest. Tokens generated and masks drawn are those of the model's config.
"""

from mmengine.config import read_base
from opencompass.openicl.icl_inferencer import GenInferencer, LLInferencer

from opencompass_llada.benchmarks.short.inferencer import OptionScoringInferencer

with read_base():
    from opencompass.configs.datasets.ARC_c.ARC_c_gen_1e0de5 import ARC_c_datasets as arc_c_chat
    from opencompass.configs.datasets.ARC_c.ARC_c_ppl_d52a21 import ARC_c_datasets as arc_c_base
    from opencompass.configs.datasets.gsm8k.gsm8k_gen_1d7fe4 import gsm8k_datasets as gsm8k_both
    from opencompass.configs.datasets.hellaswag.hellaswag_gen_6faab5 import (
        hellaswag_datasets as hellaswag_chat,
    )
    from opencompass.configs.datasets.hellaswag.hellaswag_ppl_9dbb12 import (
        hellaswag_datasets as hellaswag_base,
    )
    from opencompass.configs.datasets.humaneval.humaneval_gen_8e312c import (
        humaneval_datasets as humaneval_chat,
    )
    from opencompass.configs.datasets.humaneval.internal_humaneval_gen_ce6b06 import (
        humaneval_datasets as humaneval_base,
    )
    from opencompass.configs.datasets.math.math_0shot_gen_11c4b5 import math_datasets as math_chat
    from opencompass.configs.datasets.math.math_4shot_base_gen_db136b import (
        math_datasets as math_base,
    )
    from opencompass.configs.datasets.mbpp.mbpp_gen_830460 import mbpp_datasets as mbpp_both
    from opencompass.configs.datasets.mmlu.mmlu_gen_a484b3 import mmlu_datasets as mmlu_chat
    from opencompass.configs.datasets.mmlu.mmlu_ppl_ac766d import mmlu_datasets as mmlu_base
    from opencompass.configs.datasets.winogrande.winogrande_5shot_ll_252f01 import (
        winogrande_datasets as winogrande_base,
    )
    from .short_facts import base_stops, likelihood_per, likelihood_tasks

base_sets = dict(
    gsm8k=gsm8k_both,
    math=math_base,
    humaneval=humaneval_base,
    mbpp=mbpp_both,
    mmlu=mmlu_base,
    arc_c=arc_c_base,
    hellaswag=hellaswag_base,
    winogrande=winogrande_base,
)
chat_sets = dict(
    gsm8k=gsm8k_both,
    math=math_chat,
    humaneval=humaneval_chat,
    mbpp=mbpp_both,
    mmlu=mmlu_chat,
    arc_c=arc_c_chat,
    hellaswag=hellaswag_chat,
)
# Where a task's data is below a folder, as OpenCompass lays its own out below data/.
places = dict(
    gsm8k="gsm8k",
    math="math",
    humaneval="humaneval/human-eval-v2-20210705.jsonl",
    mbpp="mbpp/mbpp.jsonl",
    mmlu="mmlu",
    arc_c="ARC/ARC-c/ARC-Challenge-Dev.jsonl",
    hellaswag="hellaswag/hellaswag.jsonl",
    winogrande="winogrande",
)
# The subject that the sample set has.
embedded_subject = "miscellaneous"


def short_cells(
    tasks,
    chat=False,
    folder=None,
    samples=None,
    subjects=None,
    generation_length=None,
):
    """List data set configs.

    Args:
        tasks: Keys of `base_sets`, or of `chat_sets`.
        chat: Whether they are for models with a chat template.
        folder: Where the data is, laid out as OpenCompass's data/; None for where it looks.
        samples: Take the first so many of each data set.
        subjects: Of MMLU; all by default.
        generation_length: Tokens generated, instead of the model's own number.
    """
    cells = []
    for task in tasks:
        for stock in (chat_sets if chat else base_sets)[task]:
            if task == "mmlu" and subjects and stock["name"] not in subjects:
                continue
            cell = copy_config(stock)
            cell["abbr"] = name_cell(task, stock, chat)
            if folder is not None:
                cell["path"] = f"{folder}/{places[task]}"
            if samples:
                cell["reader_cfg"]["test_range"] = f"[0:{samples}]"
            cell["infer_cfg"]["inferencer"] = make_inferencer(task, chat, generation_length)
            if task == "humaneval" and not chat:
                # The function's head alone, as lm-evaluation-harness gives it.
                cell["infer_cfg"]["prompt_template"]["template"] = "{prompt}"
            cells.append(cell)
    return cells


def embedded_cells(tasks, chat=False, **options):
    """List the data set configs of the sample set; options as for `short_cells`."""
    import opencompass_llada.assets

    folder = str(opencompass_llada.assets.resolve_asset("asset:short"))
    return short_cells(tasks, chat, folder, subjects=[embedded_subject], **options)


def make_inferencer(task, chat, generation_length):
    """Return how a task is answered."""
    if not chat and task == "winogrande":
        return dict(type=LLInferencer)  # scores the rest of the sentence, which all options share
    if not chat and task in likelihood_tasks:
        return dict(type=OptionScoringInferencer, per=likelihood_per.get(task, "option"))
    inferencer = dict(type=GenInferencer)
    if generation_length:
        inferencer["max_out_len"] = generation_length
    if not chat:
        inferencer["stopping_criteria"] = list(base_stops[task])
    return inferencer


def name_cell(task, stock, chat):
    """Return a data set's abbreviation; it only names files."""
    subject = f"_{stock['name']}" if task == "mmlu" else ""
    return f"{task}{subject}" + ("_chat" if chat else "")


def copy_config(value):
    """Copy nested dictionaries and lists; classes stay what they are."""
    if isinstance(value, dict):
        return {key: copy_config(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copy_config(item) for item in value]
    return value
