"""Plans runs of LongBench, LongBench-E and LongBench v2: one data set a task."""

from __future__ import annotations

from opencompass_llada.benchmarks import cells
from opencompass_llada.benchmarks.cells import Config
from opencompass_llada.benchmarks.data_files import find_data
from opencompass_llada.benchmarks.longbench import facts
from opencompass_llada.runs import planning
from opencompass_llada.runs.model_configs import ModelTable
from opencompass_llada.runs.model_table import LONGLLADA_GENERATION
from opencompass_llada.runs.planning import Combination, MakeModels, Run
from opencompass_llada.runs.settings import Settings, number, text, texts, token_lengths

#: By the name of the data: LongBench's folder, and LongBench v2's file.
FOLDERS = {"embedded": "asset:longbench", "longbench": "opencompass/Longbench"}
V2_FILES = {"embedded": "asset:longbench/v2.jsonl", "longbench": "opencompass/longbenchv2"}
#: Tasks of the sample set, one a category.
EMBEDDED_TASKS = (
    *("multifieldqa_en", "hotpotqa", "qmsum"),
    *("trec", "passage_retrieval_en", "lcc"),
)


def _list_cells(values: Settings) -> list[Config]:
    """List the data sets, one a task; LongBench v2 is one."""
    _fill_cell_defaults(values)
    benchmark, lengths = values["benchmark"], values["output_lengths"]
    if benchmark == "longbench_v2":
        return [_v2_cell(values)]
    tasks = values["tasks"]
    if values["data"] == "embedded":
        if benchmark == "longbench_e":
            raise ValueError(
                "benchmark='longbench_e': the sample set has no texts of 8,000 words; get "
                "LongBench's files and set LLADA_DATA=longbench (or their folder)."
            )
        tasks = tasks or list(EMBEDDED_TASKS)
    prefix = benchmark + ("_embedded" if values["data"] == "embedded" else "")
    suffix = "_opencompass" if values["wording"] == "opencompass" else ""
    return [
        {
            "abbr": f"{prefix}_{task.name}_out-{lengths}{suffix}",
            "type": "opencompass_llada.benchmarks.longbench.dataset.LongBenchDataset",
            "path": FOLDERS.get(values["data"], values["data"]),
            "benchmark": benchmark,
            "task": task.name,
            "wording": values["wording"],
            "reader_cfg": cells.read_with("answers", values["samples"]),
            "infer_cfg": cells.generate_with(
                {"type": cells.LITERAL_TEMPLATE, "chat": task.chat},
                facts.output_length(lengths, task.name),
            ),
            "eval_cfg": cells.score_with(
                "longbench.dataset.LongBenchEvaluator",
                task=task.name,
                by_length=benchmark == "longbench_e",
            ),
        }
        for task in facts.list_tasks(benchmark, tasks)
    ]


def _v2_cell(values: Settings) -> Config:
    if values["tasks"]:
        raise ValueError(f"tasks={values['tasks']}: LongBench v2 has one task; leave it out.")
    path = V2_FILES.get(values["data"], values["data"])
    length = 32 if values["output_lengths"] == "short" else facts.V2_MAX_NEW_TOKENS
    base = values["prompt"] == "base"
    name = "longbench_v2" + ("_embedded" if path.startswith("asset:") else "")
    return {
        "abbr": name + ("_base" if base else ""),
        "type": "opencompass_llada.benchmarks.longbench.v2.LongBenchV2Dataset",
        "path": path,
        **({"prompt": "base"} if base else {}),
        "benchmark": "longbench_v2",
        "task": "v2",
        "reader_cfg": cells.read_with("answer", values["samples"]),
        "infer_cfg": cells.generate_with(
            {"type": cells.LITERAL_TEMPLATE, "chat": not base}, length
        ),
        "eval_cfg": cells.score_with("longbench.v2.LongBenchV2Evaluator"),
    }


def _fill_cell_defaults(values: Settings) -> None:
    values.defaults(data="longbench", benchmark="longbench", wording="original")
    if values["data"] == "embedded":
        values.default("output_lengths", "short", "default of the sample set")
    values.default("output_lengths", "original")


def _fill_defaults(values: Settings, trained_length: int) -> None:
    _fill_cell_defaults(values)
    if values["data"] == "embedded":
        values.default("block_length", 32, "default of the sample set")
        reason = "default of the sample set; block-causal models take one a token"
        values.default("steps", 8, reason)
    block_length = LONGLLADA_GENERATION["longbench"]["block_length"]
    values.default("block_length", block_length, "default: the papers'")
    values.default("lengths", None, "default: see default_lengths in benchmarks/longbench/plan.py")


def default_lengths(trained_length: int) -> list[int]:
    """Return the prompt limits that a model is run with.

    LongLLaDA's (its code has 3,500 and 7,500 tokens beside 512 new ones) for models trained on
    4,096 tokens, UltraLLaDA's 16,000 for those trained on more, and twice the trained length for
    the tiny ones.
    """
    if trained_length < 4096:
        return [2 * trained_length]
    return [3500, 7500] if trained_length < 16384 else [16000]


def _make_groups(values: Settings, table: ModelTable, make_models: MakeModels) -> list[Combination]:
    """Pair all tasks with the models, each once a prompt limit."""
    models = []
    for name in values["models"]:
        for length in values["lengths"] or default_lengths(table[name].trained_length):
            made = make_models(
                [name],
                benchmark="longbench",
                block_length=values["block_length"],
                num_steps=values["steps"],
                keep_steps="steps" in values.given,
            )
            for config in made:
                config["abbr"] = f"{config['abbr']}_prompt{length}"
                config["max_seq_len"], config["drop_middle"] = length, True
            models += made
    if values["prompt"] == "chat":
        planning.use_templates(models)
    return [{"models": models, "datasets": _list_cells(values)}]


def list_parts(benchmark: str) -> dict[str, str]:
    """Return the parts of the samples that a benchmark's table shows, with the metric of each."""
    if benchmark == "longbench_e":
        return {"all": "score", **{name: f"score_{name}" for name in facts.BUCKETS}}
    names = (*facts.V2_DIFFICULTIES, *facts.V2_LENGTHS)
    return {"all": "accuracy", **{name: f"accuracy_{name}" for name in names}}


def _find_path(cell: Config) -> str:
    # A mistake in a setting is found before this takes seconds to import.
    from opencompass_llada.benchmarks.longbench.dataset import HOW_TO_GET

    return str(find_data(cell["path"], benchmark="LongBench", how_to_get=HOW_TO_GET).resolve())


def _make_summarizer(values: Settings, run: Run) -> Config:
    described = [
        {**told, "title": f"{told['title']}, prompts up to {config['max_seq_len']:,}"}
        for told, config in zip(run.described_models, run.models, strict=True)
    ]
    benchmark = values["benchmark"]
    parts: Config = {}
    if benchmark != "longbench":
        parts["parts"] = list_parts(benchmark)
    if benchmark != "longbench_v2":
        tasks = list(EMBEDDED_TASKS) if values["data"] == "embedded" else None
        groups = facts.category_groups(benchmark, tasks)
        parts["groups"] = [group.to_config() for group in groups]
    kind = "GroupSummarizer" if benchmark == "longbench" else "BreakdownSummarizer"
    return planning.summarize_with(kind, **parts, models=described)


_CELL_SETTINGS = {
    "benchmark": text(
        "longbench, longbench_e (by length) or longbench_v2 (multiple choice)",
        *("longbench", "longbench_e", "longbench_v2"),
    ),
    "data": text(
        "embedded, longbench (where OpenCompass looks), or the folder or file of the data"
    ),
    "tasks": texts("names, separated by commas; default all that the data has"),
    "samples": number("samples a task; default all"),
    "output_lengths": text(
        "original, longllada, ultrallada, repositories or short", *facts.OUTPUT_LENGTHS
    ),
    "wording": text(
        "original, or opencompass: the prompts that both papers ran", "original", "opencompass"
    ),
    "prompt": text(
        "base (LongBench v2: ends in the answer's beginning) or chat (by the checkpoint's chat "
        "template); default LongBench's wording, by the template of models that need one",
        *("base", "chat"),
    ),
}
PLAN = planning.Plan(
    headline="{benchmark}: {models} models, {datasets} tasks",
    settings={
        **_CELL_SETTINGS,
        "lengths": token_lengths(
            "tokens of a prompt, separated by commas; the middle of longer ones is dropped"
        ),
        "block_length": number(
            "tokens in a block of the sampler; default the papers' 64, sample set 32"
        ),
        "steps": number("denoising steps; default one a token, as in the papers, sample set 8"),
    },
    demo={"models": ["tiny_llada"], "scaling": ["none", "ntk"], "data": "embedded"},
    fill_defaults=_fill_defaults,
    make_groups=_make_groups,
    find_path=_find_path,
    make_summarizer=_make_summarizer,
)
DATA_SETS = planning.DataSets(settings=_CELL_SETTINGS, list_cells=_list_cells)
