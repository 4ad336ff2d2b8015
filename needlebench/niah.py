"""Single-needle retrieval: LongLLaDA's grid on NeedleBench's data, and any other grid.

One OpenCompass data set a cell (length x depth). The prompt of a base model ends in the answer
prefix; there is no answer turn after it. Read with `read_base`, or import it plainly; in a config
that is dumped, give functions a name that starts with two underscores::

    with read_base():
        from ..needlebench.niah import niah_cells as __niah_cells

`abbr` is ``niah_DATA_LANGUAGE_lengthN_depthNNN_by-TOKENIZER``, and ends in ``_chat`` for the chat
form. TOKENIZER stands for the tokenizer's content (`benchmarks.counting.name_tokenizer`), so that
models with copies of one tokenizer are asked the same data sets. It only names files: what reads
results takes length, depth and the rest from the config.
"""

from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import ZeroRetriever

from opencompass_llada.benchmarks.needle.scoring import NeedleBenchEvaluator
from opencompass_llada.benchmarks.needle.dataset import NeedleBenchSingleDataset

# LongLLaDA (arXiv 2506.14429, section 4.1): lengths counted with GPT-4's tokenizer, 32 new tokens.
longllada_lengths = (2000, 4000, 8000, 16000, 24000, 32000)
# UltraLLaDA's repository (needlebench_single.py): 8K to 128K in steps of 8,192.
ultrallada_lengths = tuple(range(8192, 131073, 8192))
depths_by_ten = tuple(range(0, 101, 10))

# For each data, each language that it has: haystack files and NeedleBench's length_buffer.
haystacks = {
    "needlebench": {
        "en": dict(language="English", file_list=["en_un_asr.jsonl"], length_buffer=600),
        "zh": dict(language="Chinese", file_list=["zh_all.jsonl"], length_buffer=200),
    },
    "embedded": {
        "en": dict(language="English", file_list=["synthetic_en.jsonl"], length_buffer="fit"),
    },
}
# Samples a cell: LongLLaDA's 10.
default_repeats = {"needlebench": 10, "embedded": 2}
# Embedded cells of one length share their needles, so that more depths say little more.
default_depths = {"needlebench": depths_by_ten, "embedded": (0, 25, 50, 75, 100)}
data_paths = {"needlebench": "opencompass/needlebench", "embedded": "asset:needlebench"}


def niah_cells(
    data="needlebench",
    language="en",
    lengths=longllada_lengths,
    depths=None,
    tokenizer="gpt-4",
    num_repeats=None,
    generation_length=32,
    length_buffer=None,
    chat=False,
    path=None,
):
    """List the data set configs of a grid, depth by depth, so that any stretch mixes lengths.

    Args:
        data: 'needlebench' or 'embedded'.
        language: 'en', or 'zh' for NeedleBench.
        lengths: Tokens of the whole task.
        depths: Places of the needle, percent of the context; by default those of `default_depths`.
        tokenizer: What counts: 'gpt-4' or a checkpoint's path (folder, hub name, asset:NAME).
        num_repeats: Samples a cell; by default those of `default_repeats`.
        generation_length: Tokens that the model generates.
        length_buffer: Tokens kept for all but context and needle, or 'fit'; by default
            NeedleBench's for GPT-4's tokenizer and 'fit' for others.
        chat: Ask for a sentence to be filled in, instead of ending in the answer prefix.
        path: Folder of the data, where it is not in its usual place.

    Raises:
        ValueError: For data that does not exist, or does not in that language.
    """
    import opencompass_llada.benchmarks.counting
    import opencompass_llada.options

    reject_unknown = opencompass_llada.options.reject_unknown
    reject_unknown("data", [data], haystacks)
    reject_unknown(f"language of {data} data", [language], haystacks[data])
    haystack = dict(haystacks[data][language])
    if length_buffer is None and tokenizer != "gpt-4":
        length_buffer = "fit"
    if length_buffer is not None:
        haystack["length_buffer"] = length_buffer
    if haystack["length_buffer"] == "fit":
        haystack["generation_reserve"] = generation_length
    label = opencompass_llada.benchmarks.counting.name_tokenizer(tokenizer)
    cells = []
    for depth in depths or default_depths[data]:
        for length in lengths:
            percent = f"{depth:g}".zfill(3)
            name = f"niah_{data}_{language}_length{length}_depth{percent}_by-{label}"
            cells.append(
                dict(
                    abbr=name + ("_chat" if chat else ""),
                    type=NeedleBenchSingleDataset,
                    path=path or data_paths[data],
                    length=length,
                    depth=depth,
                    tokenizer=tokenizer,
                    num_repeats_per_file=num_repeats or default_repeats[data],
                    guide=chat,
                    needle_file_name="needles.jsonl",
                    reader_cfg=dict(input_columns=["prompt"], output_column="answer"),
                    infer_cfg=dict(
                        # No BOT turn: it would put a line break after the answer prefix.
                        prompt_template=dict(
                            type=PromptTemplate,
                            template=dict(round=[dict(role="HUMAN", prompt="{prompt}")]),
                        ),
                        retriever=dict(type=ZeroRetriever),
                        inferencer=dict(type=GenInferencer, max_out_len=generation_length),
                    ),
                    eval_cfg=dict(evaluator=dict(type=NeedleBenchEvaluator), pred_role="BOT"),
                    **haystack,
                )
            )
    return cells


niah_en_datasets = niah_cells(language="en")
niah_zh_datasets = niah_cells(language="zh")
niah_en_chat_datasets = niah_cells(language="en", chat=True)
niah_zh_chat_datasets = niah_cells(language="zh", chat=True)
niah_en_128k_datasets = niah_cells(language="en", lengths=ultrallada_lengths)
niah_zh_128k_datasets = niah_cells(language="zh", lengths=ultrallada_lengths)
niah_en_128k_chat_datasets = niah_cells(language="en", lengths=ultrallada_lengths, chat=True)
niah_zh_128k_chat_datasets = niah_cells(language="zh", lengths=ultrallada_lengths, chat=True)
# For tiny-llada, from half to four times its trained length of 512 tokens.
niah_embedded_datasets = niah_cells(
    data="embedded",
    lengths=(256, 512, 1024, 2048),
    tokenizer="asset:tiny-llada",
    generation_length=16,
)
