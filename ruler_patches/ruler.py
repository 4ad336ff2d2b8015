"""RULER's 13 tasks at any length, for base models and for chat models.

The prompt of a base model ends in the answer prefix ("... mentioned in the provided text is"):
OpenCompass's own configs add an answer turn, which puts a line break after it for a model without
a chat template. The chat form keeps that turn, as it is there. Read with `read_base`::

    with read_base():
        from ..ruler_patches.ruler import ruler_cells as __ruler_cells

`abbr` is ``ruler_TASK_lengthN_by-TOKENIZER``, and ends in ``_chat`` for the chat form. TOKENIZER
stands for the tokenizer's content (`benchmarks.counting.name_tokenizer`). It only names files: what
reads results takes task, length and tokenizer from the config.
"""

from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import ZeroRetriever

from opencompass_llada.benchmarks.ruler.dataset import RulerDataset
from opencompass_llada.benchmarks.ruler.dataset import RulerEvaluator

# Where texts come from: folder and essay file. 'embedded' has no questions, so no qa tasks.
sources = {
    "ruler": dict(path="data/ruler", essay_file="PaulGrahamEssays.jsonl"),
    "embedded": dict(path="asset:needlebench", essay_file="synthetic_en.jsonl"),
}
question_tasks = ("qa_squad", "qa_hotpotqa")
# For tiny-llada, from its trained length to four times it. Without the answer, cwe with its worked
# example takes 1,058 tokens of its tokenizer at the least, and vt 468.
embedded_lengths = (512, 1024, 2048)
embedded_shortest = {"vt": 1024, "cwe": 2048}


def ruler_cells(
    lengths,
    tasks=None,
    tokenizer=None,
    num_samples=100,
    generation_length=64,
    chat=False,
    data="ruler",
    path=None,
    tokens_to_generate=None,
    fwe_room=True,
):
    """List data set configs, length by length.

    Args:
        lengths: Tokens of prompt and answer together.
        tasks: Names; by default all that the data has.
        tokenizer: What counts: 'gpt-4' or a checkpoint's path (folder, hub name, asset:NAME); by
            default $TOKENIZER_MODEL, as in OpenCompass's own configs, else 'gpt-4'.
        num_samples: Samples a task and length.
        generation_length: Tokens that the model generates, 64 in both papers; None for the
            model's own.
        chat: OpenCompass's turns of a conversation, for models with a chat template.
        data: 'ruler' (OpenCompass's data/ruler) or 'embedded' (generated essays, no qa tasks).
        path: Folder of the data, where it is not in its usual place.
        tokens_to_generate: Room for the answer; None for RULER's own for each task.
        fwe_room: Whether fwe keeps that room too; False for OpenCompass's and NVIDIA's prompts,
            which are too long with the answer.

    Raises:
        ValueError: For data or tasks that do not exist.
    """
    import os

    import opencompass_llada.benchmarks.counting
    import opencompass_llada.benchmarks.ruler.prompts
    import opencompass_llada.options

    known = opencompass_llada.benchmarks.ruler.prompts.TASKS
    reject_unknown = opencompass_llada.options.reject_unknown
    reject_unknown("RULER data", [data], sources)
    at_hand = [name for name in known if data != "embedded" or name not in question_tasks]
    tasks = list(tasks or at_hand)
    reject_unknown(f"task of RULER's {data} data", tasks, at_hand)
    tokenizer = tokenizer or os.environ.get("TOKENIZER_MODEL") or "gpt-4"
    label = opencompass_llada.benchmarks.counting.name_tokenizer(tokenizer)
    turns = [dict(role="HUMAN", prompt="{prompt}")]
    if chat:
        turns.append(dict(role="BOT", prompt="{answer}\n"))
    inferencer = dict(type=GenInferencer)
    if generation_length:
        inferencer["max_out_len"] = generation_length
    options = dict(tokenizer=tokenizer, num_samples=num_samples, **sources[data])
    if path:
        options["path"] = path
    if tokens_to_generate is not None:
        options["tokens_to_generate"] = tokens_to_generate
    if chat:
        options["chat"] = True
    if not fwe_room:
        options["fwe_room"] = False
    return [
        dict(
            abbr=f"ruler_{task}_length{length}_by-{label}" + ("_chat" if chat else ""),
            type=RulerDataset,
            benchmark="ruler",
            task=task,
            length=length,
            reader_cfg=dict(input_columns=["prompt"], output_column="answer"),
            infer_cfg=dict(
                prompt_template=dict(type=PromptTemplate, template=dict(round=list(turns))),
                retriever=dict(type=ZeroRetriever),
                inferencer=dict(inferencer),
            ),
            eval_cfg=dict(
                evaluator=dict(type=RulerEvaluator, match=known[task].match), pred_role="BOT"
            ),
            **options,
        )
        for length in lengths
        for task in tasks
    ]


def embedded_cells(
    generation_length,
    within_reserve=True,
    lengths=None,
    tokenizer="asset:tiny-llada",
    tasks=None,
    num_samples=3,
    chat=False,
):
    """List small data sets that need no data, with just the room that the answer takes.

    Args:
        generation_length: Tokens that the model generates.
        within_reserve: Generate fewer where RULER keeps less room for a task: vt's 30.
        lengths: As of `ruler_cells`; by default `embedded_lengths`, each task from the length on
            that it fits.
        tokenizer: As of `ruler_cells`.
        tasks: As of `ruler_cells`.
        num_samples: Samples a task and length.
        chat: As of `ruler_cells`.
    """
    import opencompass_llada.benchmarks.ruler.prompts

    known = opencompass_llada.benchmarks.ruler.prompts.TASKS
    cells = ruler_cells(
        lengths or embedded_lengths,
        tasks=tasks,
        tokenizer=tokenizer,
        num_samples=num_samples,
        chat=chat,
        data="embedded",
    )
    for cell in cells:
        reserve = known[cell["task"]].tokens_to_generate
        room = min(generation_length, reserve) if within_reserve else generation_length
        cell["tokens_to_generate"] = cell["infer_cfg"]["inferencer"]["max_out_len"] = room
    shortest = {} if lengths else embedded_shortest
    return [cell for cell in cells if cell["length"] >= shortest.get(cell["task"], 0)]
