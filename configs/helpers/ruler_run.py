"""Turns the settings of a RULER run into models, data sets and task sizes."""

from mmengine.config import read_base
from opencompass.partitioners import NaivePartitioner

from opencompass_llada.runs.partitioner import PackingPartitioner

with read_base():
    from ...ruler_patches.ruler import embedded_cells, embedded_lengths, ruler_cells
    from ...ruler_patches.ruler import sources as ruler_sources
    from .model_facts import longllada_generation, tiny_generation
    from .models import describe_models, find_facts, list_model_configs, resolve_models
    from .models import set_sampler
    from .selection import announce as announce_settings, read_settings

ruler_table = dict(
    known=dict(
        models="names of docs/models.md or NAME=PATH, separated by commas",
        scaling="METHOD or METHOD:option=number, separated by commas; all: those of docs/models.md",
        tasks="names, separated by commas; default all that the data has",
        lengths="tokens of prompt and answer, separated by commas",
        samples="samples a task and length",
        data="embedded (no qa tasks), ruler (where OpenCompass looks), or the folder of its files",
        tokenizer="what counts lengths: model (its own), gpt-4, or a checkpoint's path",
        prompt="base (ends in the answer prefix), chat, or opencompass: its turns without a chat "
        "template, so that prompts end in a line break",
        fwe="fits (default: prompt and answer have the length) or published (the prompt alone)",
        generation_length="tokens generated for a sample; default the papers' 64, or the tiny "
        "models' on embedded data",
        block_length="tokens in a block of the sampler; default one block",
        steps="denoising steps; default one a token, as in the papers",
        batch_size="prompts at a time; default the model's",
        workers="tasks at a time; default one a GPU, or one a core up to two on a CPU",
    ),
    lists=("models", "scaling", "tasks", "lengths"),
    numbers=(
        *("lengths", "samples", "generation_length", "block_length", "steps"),
        *("batch_size", "workers"),
    ),
    choices=dict(prompt=("base", "chat", "opencompass"), fwe=("fits", "published")),
    demo=dict(models=["tiny_llada"], scaling=["none", "ntk"], data="embedded"),
)
# Both papers: 64 tokens in one block, 100 samples; LongLLaDA's lengths (its Table 2).
paper_generation = longllada_generation["ruler"]["max_out_len"]
paper_samples = 100
longllada_lengths = (4096, 8192, 16384)
# What keeps the embedded run at minutes on two cores: the tiny models' answers, shorter than the
# papers' and four tokens a step, and few samples. Variable tracking, with 30 tokens in two blocks,
# takes as many steps.
embedded_answer = tiny_generation["ruler"]
embedded_samples = 3


def plan_run(settings, num_gpus, announce=True, rows=None):
    """Work out a run from settings and environment variables, and check its data.

    Args:
        settings: Values of `ruler_table`'s names; None for the default.
        num_gpus: GPUs of the machine.
        announce: Write what was taken, and why, to standard error.
        rows: What runs, as `models.list_model_configs` reads it, instead of every model with
            every scaling; the models of the settings have to be theirs.

    Returns:
        A dictionary: models, datasets, combinations (None where every model runs every data
        set), described_models for the summarizer, settings (resolved), workers (tasks at a time),
        and the partitioners of inference and evaluation.
    """
    values, sources = read_settings(settings, ruler_table, may_be_demo=rows is None)
    fill_defaults(values, sources, num_gpus)
    groups = group_models(values)
    check_groups(groups)
    models, datasets, combinations = [], [], []
    for cells, names in groups:
        configs = make_models(names, values, num_gpus, rows)
        models += configs
        datasets += cells
        combinations.append(dict(models=configs, datasets=cells))
    if announce:
        count = sum(len(group["models"]) * len(group["datasets"]) for group in combinations)
        headline = f"RULER: {len(models)} models, {count} results (model x task x length)"
        announce_settings(headline, values, sources, unset=("lengths",))
    return dict(
        models=models,
        datasets=datasets,
        combinations=combinations if len(groups) > 1 else None,
        described_models=describe_models(models),
        settings=values,
        workers=values["workers"],
        partitioner=choose_partitioner(len(datasets), values["workers"], num_gpus),
        eval_partitioner=dict(type=PackingPartitioner, num_tasks=1),
    )


def fill_defaults(values, sources, num_gpus):
    """Put the default of each setting that has one where none was given, with its reason."""
    from os import cpu_count

    values["models"] = resolve_models(values["models"])
    trained = min(find_facts(name)["trained_length"] for name in values["models"])
    embedded = values["data"] == "embedded"
    gpt4 = not embedded and trained >= longllada_lengths[0]
    defaults = dict(
        scaling=(["none"], "default"),
        samples=(
            (embedded_samples, "default on embedded data")
            if embedded
            else (paper_samples, "default: both papers'")
        ),
        tokenizer=(
            ("gpt-4", "default: as RULER counts in OpenCompass")
            if gpt4
            else ("model", "default: embedded data or a trained length below RULER's shortest")
        ),
        generation_length=(
            (
                embedded_answer["max_out_len"],
                "default on embedded data; less where RULER keeps less",
            )
            if embedded
            else (paper_generation, "default: both papers'")
        ),
        fwe=("fits", "default"),
        workers=(
            num_gpus or min(2, cpu_count() or 1),
            f"default: {num_gpus} GPUs" if num_gpus else "default: no GPU, up to two cores",
        ),
    )
    put_missing(values, sources, defaults)
    length = values["generation_length"]
    if takes_embedded_answer(values):
        sampler = dict(
            block_length=(embedded_answer["block_length"], "default on embedded data"),
            steps=(embedded_answer["num_steps"], "default on embedded data, for speed"),
        )
    else:
        sampler = dict(
            block_length=(length, "default: one block, as in both papers"),
            steps=(length, "default: one a token, as in both papers"),
        )
    put_missing(values, sources, sampler)
    if values["lengths"] is None and embedded:
        lengths = ",".join(map(str, embedded_lengths))
        sources["lengths"] = f"default: {lengths}; vt from 1024 and cwe from 2048, where they fit"
    elif values["lengths"] is None:
        values["lengths"], sources["lengths"] = list(longllada_lengths), "default: LongLLaDA's"


def takes_embedded_answer(values):
    """Return whether embedded data is run with answers as long as by default."""
    default = embedded_answer["max_out_len"]
    return values["data"] == "embedded" and values["generation_length"] == default


def put_missing(values, sources, defaults):
    """Fill settings that have no value; defaults are pairs of value and reason."""
    for name, (value, reason) in defaults.items():
        if values[name] is None:
            values[name], sources[name] = value, reason


def group_models(values):
    """Pair each set of data sets with the models that run it: tokenizers may differ, by content.

    For chat prompts the tokenizer's template counts, too.

    Returns:
        Pairs of (data set configs, model names).
    """
    import opencompass_llada.benchmarks.counting

    counting = opencompass_llada.benchmarks.counting
    groups = {}
    for name in values["models"]:
        tokenizer = values["tokenizer"]
        if tokenizer == "model":
            tokenizer = find_facts(name)["path"]
        template = counting.find_template(tokenizer) if values["prompt"] != "base" else None
        content = (counting.name_tokenizer(tokenizer), template)
        groups.setdefault(content, (tokenizer, []))[1].append(name)
    return [(make_cells(values, tokenizer), names) for tokenizer, names in groups.values()]


def make_cells(values, tokenizer):
    """List the data set configs whose lengths a tokenizer counts."""
    common = dict(
        tasks=values["tasks"],
        tokenizer=tokenizer,
        num_samples=values["samples"],
        generation_length=values["generation_length"],
        lengths=values["lengths"],
        chat=values["prompt"] != "base",
    )
    if values["data"] == "embedded":
        return embedded_cells(within_reserve=takes_embedded_answer(values), **common)
    named = values["data"] in ruler_sources
    path = ruler_sources[values["data"]]["path"] if named else values["data"]
    cells = ruler_cells(path=path, fwe_room=values["fwe"] != "published", **common)
    for cell in cells:
        # The full path, so that the dumped config does not depend on COMPASS_DATA_CACHE.
        cell["path"] = full_path(cell)
    return cells


def full_path(cell):
    """Return the folder of a data set's file, or its path as it is if it needs none."""
    import opencompass_llada.benchmarks.ruler.samples
    import opencompass_llada.benchmarks.ruler.prompts

    spec = opencompass_llada.benchmarks.ruler.prompts.RulerSpec(
        task=cell["task"], length=cell["length"], path=cell["path"], essay_file=cell["essay_file"]
    )
    file = opencompass_llada.benchmarks.ruler.samples.find_data_file(spec)
    return cell["path"] if file is None else str(file.resolve().parent)


def check_groups(groups):
    """Make a sample of each task at its smallest length, so that a fault shows at once."""
    import opencompass_llada.benchmarks.ruler.dataset

    for cells, _ in groups:
        opencompass_llada.benchmarks.ruler.dataset.check_cells(cells)


def make_models(names, values, num_gpus, rows):
    """Return the model configs, with the papers' generation settings for RULER."""
    configs = list_model_configs(
        names,
        values["scaling"],
        num_gpus,
        values["batch_size"],
        benchmark="ruler",
        dtype=values["dtype"],
        rows=rows,
        chat=values["prompt"] == "chat",
    )
    for config in configs:
        config["max_out_len"] = values["generation_length"]
        set_sampler(config, values["block_length"], values["steps"], benchmark="ruler")
    return configs


def choose_partitioner(num_datasets, workers, num_gpus):
    """Return the partitioner of inference.

    On GPUs the data sets of one model are spread over all of them; on a CPU, where only tiny
    models run, all is packed into one task a worker, since starting one takes 10 seconds.
    """
    if num_gpus:
        return dict(type=NaivePartitioner, n=max(1, -(-num_datasets // (2 * num_gpus))))
    return dict(type=PackingPartitioner, num_tasks=workers)
