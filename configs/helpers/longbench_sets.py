"""Data set configs of LongBench, LongBench-E and LongBench v2, one a task.

A config pulls functions in with ``read_base`` under names that start with two underscores; see
`models`. The tasks and what is known of them are in `opencompass_llada.benchmarks.longbench.facts`.
"""

from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.openicl.icl_retriever import ZeroRetriever

from opencompass_llada.benchmarks.opencompass_bases import LiteralPromptTemplate
from opencompass_llada.benchmarks.longbench.dataset import LongBenchDataset
from opencompass_llada.benchmarks.longbench.dataset import LongBenchEvaluator
from opencompass_llada.benchmarks.longbench.v2 import LongBenchV2Dataset, LongBenchV2Evaluator

published_path = "opencompass/Longbench"
published_v2_path = "opencompass/longbenchv2"
embedded_path = "asset:longbench"
# Tasks of the sample set, one a category.
embedded_tasks = (
    "multifieldqa_en",
    "hotpotqa",
    "qmsum",
    "trec",
    "passage_retrieval_en",
    "lcc",
)


def longbench_sets(
    benchmark="longbench",
    tasks=None,
    path=published_path,
    output_lengths="original",
    num_samples=None,
    wording="original",
):
    """List the data set configs of tasks.

    Args:
        benchmark: 'longbench', or 'longbench_e' for the 13 tasks by length.
        tasks: Names; all by default.
        path: LongBench's folder: 'asset:longbench', a folder, or 'opencompass/Longbench'.
        output_lengths: Which setting of `opencompass_llada.benchmarks.longbench.facts`.
        num_samples: Take only the first so many of each task.
        wording: 'original', or 'opencompass' for the prompts that both papers ran.

    Raises:
        ValueError: For an unknown name; the nearest is named.
    """
    import opencompass_llada.benchmarks.longbench.facts

    facts = opencompass_llada.benchmarks.longbench.facts
    length_of = opencompass_llada.benchmarks.longbench.facts.output_length
    prefix = benchmark + ("_embedded" if path == embedded_path else "")
    suffix = f"out-{output_lengths}" + ("_opencompass" if wording == "opencompass" else "")
    return [
        dict(
            abbr=f"{prefix}_{task.name}_{suffix}",
            type=LongBenchDataset,
            path=path,
            benchmark=benchmark,
            task=task.name,
            wording=wording,
            reader_cfg=reader_config("answers", num_samples),
            infer_cfg=infer_config(task.chat, length_of(output_lengths, task.name)),
            eval_cfg=dict(
                evaluator=dict(
                    type=LongBenchEvaluator, task=task.name, by_length=benchmark == "longbench_e"
                ),
                pred_role="BOT",
            ),
        )
        for task in facts.list_tasks(benchmark, tasks)
    ]


def longbench_v2_sets(path=published_v2_path, num_samples=None, generation_length=None):
    """List the one data set config of LongBench v2.

    Args:
        path: Its file, or 'opencompass/longbenchv2'.
        num_samples: Take only the first so many.
        generation_length: Tokens to generate; the original's 128 by default.
    """
    import opencompass_llada.benchmarks.longbench.v2

    default = opencompass_llada.benchmarks.longbench.v2.MAX_NEW_TOKENS
    return [
        dict(
            abbr="longbench_v2" + ("_embedded" if path.startswith("asset:") else ""),
            type=LongBenchV2Dataset,
            path=path,
            benchmark="longbench_v2",
            task="v2",
            reader_cfg=reader_config("answer", num_samples),
            infer_cfg=infer_config(True, generation_length or default),
            eval_cfg=dict(evaluator=dict(type=LongBenchV2Evaluator), pred_role="BOT"),
        )
    ]


def reader_config(output_column, num_samples):
    """Return how OpenCompass reads the samples."""
    config = dict(input_columns=["prompt"], output_column=output_column)
    if num_samples is not None:
        config["test_range"] = f"[0:{num_samples}]"
    return config


def infer_config(chat, generation_length):
    """Return how a prompt is made and answered.

    Args:
        chat: Whether a model's chat template goes around the prompt.
        generation_length: Tokens to generate.
    """
    return dict(
        prompt_template=dict(type=LiteralPromptTemplate, chat=chat),
        retriever=dict(type=ZeroRetriever),
        inferencer=dict(type=GenInferencer, max_out_len=generation_length),
    )


longbench_all = longbench_sets()
longbench_e_all = longbench_sets("longbench_e")
longbench_embedded = longbench_sets(
    tasks=list(embedded_tasks), path=embedded_path, output_lengths="short"
)
longbench_v2_all = longbench_v2_sets()
longbench_v2_embedded = longbench_v2_sets("asset:longbench/v2.jsonl", generation_length=32)
