"""Multi-needle retrieval and reasoning on NeedleBench's data: one data set a length (and depth).

Retrieval hides a needle at every depth of the grid and asks for all of them. The prompt of a base
model ends in the beginning of the answer; there is no answer turn after it. `abbr` only names
files: what reads results takes benchmark, task and length from the config.
"""

from mmengine.config import read_base
from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.openicl.icl_retriever import ZeroRetriever

from opencompass_llada.benchmarks.opencompass_bases import LiteralPromptTemplate
from opencompass_llada.benchmarks.multi_needle.samples import (
    MultiNeedleReasoningDataset,
    MultiNeedleRetrievalDataset,
)
from opencompass_llada.benchmarks.multi_needle.scoring import (
    MultiNeedleReasoningEvaluator,
    MultiNeedleRetrievalEvaluator,
)

with read_base():
    from .niah import data_paths, depths_by_ten, longllada_lengths

# For each data, each language that it has. NeedleBench's own Chinese sets read zh_finance.jsonl
# and the like; zh_all.jsonl holds the same kinds of text.
multi_haystacks = {
    "needlebench": {
        "en": dict(language="English", file_list=["PaulGrahamEssays.jsonl"]),
        "zh": dict(language="Chinese", file_list=["zh_all.jsonl"]),
    },
    "embedded": {"en": dict(language="English", file_list=["synthetic_en.jsonl"])},
}


def multi_retrieval_cells(
    data="needlebench",
    language="en",
    lengths=longllada_lengths,
    depths=depths_by_ten,
    tokenizer="gpt-4",
    num_repeats=10,
    generation_length=256,
    length_buffer="fit",
    chat=False,
    path=None,
):
    """List the data set configs of multi-needle retrieval, one a length.

    Args:
        data: 'needlebench' or 'embedded'.
        language: 'en', or 'zh' for NeedleBench.
        lengths: Tokens of the whole task.
        depths: Places of the needles, percent of the context; one needle each.
        tokenizer: What counts: 'gpt-4' or a checkpoint's path (folder, hub name, asset:NAME).
        num_repeats: Samples a cell.
        generation_length: Tokens that the model generates.
        length_buffer: Tokens kept for all but context and needles (NeedleBench's own sets keep
            1,000 in English and 200 in Chinese), or 'fit' for prompts of exactly the length.
        chat: Ask for sentences to be filled in, instead of ending in the first one's beginning.
        path: Folder of the data, where it is not in its usual place.
    """
    return [
        dict(
            abbr=multi_name("multi_retrieval", data, language, length, tokenizer, chat),
            type=MultiNeedleRetrievalDataset,
            task=f"multi_retrieval_{language}",
            length=length,
            depths=list(depths),
            needle_file_name="needles.jsonl",
            eval_cfg=dict(evaluator=dict(type=MultiNeedleRetrievalEvaluator), pred_role="BOT"),
            **common_options(
                data, language, tokenizer, num_repeats, generation_length, length_buffer, chat, path
            ),
        )
        for length in lengths
    ]


def multi_reasoning_cells(
    language="en",
    lengths=longllada_lengths,
    depths=depths_by_ten,
    num_needles=2,
    gap=10,
    tokenizer="gpt-4",
    num_repeats=10,
    generation_length=64,
    length_buffer="fit",
    chat=False,
    path=None,
):
    """List the data set configs of multi-needle reasoning, one a length and depth.

    Args:
        language: 'en' or 'zh'.
        lengths: Tokens of the whole task.
        depths: Places of the first needle, percent of the context.
        num_needles: Steps of the derivation; NeedleBench asks for 2 to 5.
        gap: Percent of the context between two needles.
        tokenizer: What counts; see `multi_retrieval_cells`.
        num_repeats: Samples a cell.
        generation_length: Tokens that the model generates.
        length_buffer: See `multi_retrieval_cells`.
        chat: NeedleBench's question, instead of ending in the beginning of an answer.
        path: Folder of the data, where it is not in its usual place.
    """
    task = f"multi_reasoning{num_needles}"
    return [
        dict(
            abbr=multi_name(task, "needlebench", language, length, tokenizer, chat)
            + f"_depth{depth:03d}",
            type=MultiNeedleReasoningDataset,
            task=f"{task}_{language}_depth{depth:03d}",
            length=length,
            depth=depth,
            num_needles=num_needles,
            diff=gap,
            needle_file_name=f"multi_needle_reasoning_{language}.json",
            eval_cfg=dict(evaluator=dict(type=MultiNeedleReasoningEvaluator), pred_role="BOT"),
            **common_options(
                "needlebench",
                language,
                tokenizer,
                num_repeats,
                generation_length,
                length_buffer,
                chat,
                path,
            ),
        )
        for depth in depths
        for length in lengths
    ]


def multi_name(task, data, language, length, tokenizer, chat):
    """Return a data set's abbreviation."""
    import opencompass_llada.benchmarks.counting

    label = opencompass_llada.benchmarks.counting.name_tokenizer(tokenizer)
    name = f"{task}_{data}_{language}_length{length}_by-{label}"
    return name + ("_chat" if chat else "")


def common_options(
    data, language, tokenizer, num_repeats, generation_length, length_buffer, chat, path
):
    """Return what both kinds of data set share."""
    import opencompass_llada.options

    reject_unknown = opencompass_llada.options.reject_unknown
    reject_unknown("data", [data], multi_haystacks)
    reject_unknown(f"language of {data} data", [language], multi_haystacks[data])
    return dict(
        benchmark="needlebench_multi",
        path=path or data_paths[data],
        tokenizer=tokenizer,
        num_repeats_per_file=num_repeats,
        length_buffer=length_buffer,
        generation_reserve=generation_length if length_buffer == "fit" else 0,
        guide=chat,
        reader_cfg=dict(input_columns=["prompt"], output_column="answer"),
        infer_cfg=dict(
            # No BOT turn: it would put a line break after the answer prefix.
            prompt_template=dict(type=LiteralPromptTemplate),
            retriever=dict(type=ZeroRetriever),
            inferencer=dict(type=GenInferencer, max_out_len=generation_length),
        ),
        **multi_haystacks[data][language],
    )


multi_needle_en_datasets = multi_retrieval_cells(language="en")
multi_needle_zh_datasets = multi_retrieval_cells(language="zh")
multi_needle_en_chat_datasets = multi_retrieval_cells(language="en", chat=True)
multi_needle_zh_chat_datasets = multi_retrieval_cells(language="zh", chat=True)
multi_reasoning_en_datasets = multi_reasoning_cells(language="en")
multi_reasoning_zh_datasets = multi_reasoning_cells(language="zh")
multi_reasoning_en_chat_datasets = multi_reasoning_cells(language="en", chat=True)
multi_reasoning_zh_chat_datasets = multi_reasoning_cells(language="zh", chat=True)
# For tiny-llada, from once to four times its trained length of 512 tokens.
multi_needle_embedded_datasets = multi_retrieval_cells(
    data="embedded",
    lengths=(512, 1024, 2048),
    depths=(10, 50, 90),
    tokenizer="asset:tiny-llada",
    num_repeats=4,
    generation_length=64,
)
