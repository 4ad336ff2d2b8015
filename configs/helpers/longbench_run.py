"""Turns the settings of a LongBench run into models, data sets and task sizes."""

from mmengine.config import read_base
from opencompass.partitioners import NaivePartitioner

from opencompass_llada.report.summarizers import BreakdownSummarizer
from opencompass_llada.report.summarizers import GroupSummarizer
from opencompass_llada.runs.partitioner import PackingPartitioner

with read_base():
    from .longbench_groups import list_groups, list_length_parts, list_v2_parts
    from .longbench_sets import (
        embedded_path,
        embedded_tasks,
        longbench_sets,
        longbench_v2_sets,
        published_path,
        published_v2_path,
    )
    from .model_facts import longllada_generation
    from .models import describe_models, find_facts, list_model_configs, resolve_models
    from .models import set_sampler
    from .selection import announce as announce_settings, read_settings

longbench_table = dict(
    known=dict(
        models="names of docs/models.md or NAME=PATH, separated by commas",
        scaling="METHOD or METHOD:option=number, separated by commas; all: those of docs/models.md",
        benchmark="longbench, longbench_e (by length) or longbench_v2 (multiple choice)",
        data="embedded, longbench (where OpenCompass looks), or the folder or file of the data",
        tasks="names, separated by commas; default all that the data has",
        samples="samples a task; default all",
        lengths="tokens of a prompt, separated by commas; the middle of longer ones is dropped",
        output_lengths="original, longllada, ultrallada, repositories or short",
        wording="original, or opencompass: the prompts that both papers ran",
        block_length="tokens in a block of the sampler; default the papers' 64, sample set 32",
        steps="denoising steps; default one a token, as in the papers, sample set 8",
        batch_size="prompts at a time; default the model's",
        workers="tasks at a time; default one a GPU, or one a core up to two on a CPU",
    ),
    lists=("models", "scaling", "tasks", "lengths"),
    numbers=("samples", "lengths", "block_length", "steps", "batch_size", "workers"),
    choices=dict(
        wording=("original", "opencompass"),
        benchmark=("longbench", "longbench_e", "longbench_v2"),
        output_lengths=("original", "longllada", "ultrallada", "repositories", "short"),
    ),
    demo=dict(models=["tiny_llada"], scaling=["none", "ntk"], data="embedded"),
)


def plan_run(settings, num_gpus, announce=True, rows=None):
    """Work out a run from settings and environment variables, and check its data.

    Args:
        settings: Values of `longbench_table`'s names; None for the default.
        num_gpus: GPUs of the machine.
        announce: Write what was taken, and why, to standard error.
        rows: What runs, as `models.list_model_configs` reads it, instead of every model with
            every scaling; the models of the settings have to be theirs.

    Returns:
        A dictionary: models, datasets, settings (resolved), workers (tasks at a time),
        summarizer, and the partitioners of inference and evaluation.
    """
    values, sources = read_settings(settings, longbench_table, may_be_demo=rows is None)
    fill_defaults(values, sources, num_gpus)
    datasets = make_datasets(values)
    check_data(datasets)
    models, described = make_models(values, num_gpus, rows)
    if announce:
        headline = f"{values['benchmark']}: {len(models)} models, {len(datasets)} tasks"
        announce_settings(headline, values, sources, unset=("lengths",))
    return dict(
        models=models,
        datasets=datasets,
        settings=values,
        workers=values["workers"],
        summarizer=make_summarizer(values, described),
        partitioner=choose_partitioner(len(datasets), values["workers"], num_gpus),
        eval_partitioner=dict(type=PackingPartitioner, num_tasks=1),
    )


def fill_defaults(values, sources, num_gpus):
    """Put the default of each setting that has one where none was given, with its reason."""
    from os import cpu_count

    values["models"] = resolve_models(values["models"])
    embedded = values["data"] == "embedded"
    defaults = dict(
        benchmark=("longbench", "default"),
        output_lengths=(
            ("short", "default of the sample set") if embedded else ("original", "default")
        ),
        wording=("original", "default"),
        block_length=(32, "default of the sample set")
        if embedded
        else (longllada_generation["longbench"]["block_length"], "default: the papers'"),
        steps=(8, "default of the sample set")
        if embedded
        else (None, "default: the papers', one a token"),
        scaling=(["none"], "default"),
        workers=(
            num_gpus or min(2, cpu_count() or 1),
            f"default: {num_gpus} GPUs" if num_gpus else "default: no GPU, up to two cores",
        ),
    )
    for name, (value, reason) in defaults.items():
        if values[name] is None:
            values[name], sources[name] = value, reason
    if values["lengths"] is None:
        sources["lengths"] = "default: see default_lengths in configs/helpers/longbench_run.py"


def default_lengths(trained_length):
    """Return the prompt limits that a model is run with.

    LongLLaDA's (its code has 3,500 and 7,500 tokens beside 512 new ones) for models trained on
    4,096 tokens, UltraLLaDA's 16,000 for those trained on more, and twice the trained length for
    the tiny ones.
    """
    if trained_length < 4096:
        return [2 * trained_length]
    return [3500, 7500] if trained_length < 16384 else [16000]


def make_datasets(values):
    """List the data set configs that the settings ask for."""
    folders = dict(embedded=embedded_path, longbench=published_path)
    if values["benchmark"] == "longbench_v2":
        files = dict(embedded=embedded_path + "/v2.jsonl", longbench=published_v2_path)
        if values["tasks"]:
            raise ValueError(f"tasks={values['tasks']}: LongBench v2 has one task; leave it out.")
        length = 32 if values["output_lengths"] == "short" else None
        return longbench_v2_sets(
            full_path(files.get(values["data"], values["data"])), values["samples"], length
        )
    tasks = values["tasks"]
    if values["data"] == "embedded":
        if values["benchmark"] != "longbench":
            raise ValueError(
                "benchmark='longbench_e': the sample set has no texts of 8,000 words; get "
                "LongBench's files and set LLADA_DATA=longbench (or their folder)."
            )
        tasks = tasks or list(embedded_tasks)
    return longbench_sets(
        values["benchmark"],
        tasks,
        full_path(folders.get(values["data"], values["data"])),
        values["output_lengths"],
        values["samples"],
        values["wording"],
    )


def full_path(path):
    """Return where the data lies, in full: a dumped config must not depend on variables."""
    import opencompass_llada.benchmarks.data_files
    import opencompass_llada.benchmarks.longbench.samples

    if path.startswith("asset:"):
        return path
    how_to_get = opencompass_llada.benchmarks.longbench.samples.HOW_TO_GET
    found = opencompass_llada.benchmarks.data_files.find_data(
        path, benchmark="LongBench", how_to_get=how_to_get
    )
    return str(found.resolve())


def check_data(datasets):
    """Read every data set once, so that a fault shows before any model is loaded."""
    import opencompass_llada.benchmarks.longbench.samples

    opencompass_llada.benchmarks.longbench.samples.check_data_sets(datasets)


def make_models(values, num_gpus, rows):
    """Return the model configs, one a prompt limit, and what summaries say of them."""
    configs, described = [], []
    for name in values["models"]:
        lengths = values["lengths"] or default_lengths(find_facts(name)["trained_length"])
        for length in lengths:
            made = list_model_configs(
                [name],
                values["scaling"],
                num_gpus,
                values["batch_size"],
                benchmark="longbench",
                dtype=values["dtype"],
                rows=rows,
            )
            facts = describe_models(made)
            for config, fact in zip(made, facts, strict=True):
                config["abbr"] = fact["abbr"] = f"{config['abbr']}_prompt{length}"
                fact["title"] += f", prompts up to {length:,}"
                config["max_seq_len"], config["drop_middle"] = length, True
                set_sampler(config, values["block_length"], values["steps"], benchmark="longbench")
            configs += made
            described += facts
    return configs, described


def make_summarizer(values, described):
    """Return the summarizer's config."""
    if values["benchmark"] == "longbench_v2":
        return dict(type=BreakdownSummarizer, parts=list_v2_parts(), models=described)
    tasks = list(embedded_tasks) if values["data"] == "embedded" else None
    groups = list_groups(values["benchmark"], tasks)
    if values["benchmark"] == "longbench_e":
        return dict(
            type=BreakdownSummarizer, parts=list_length_parts(), groups=groups, models=described
        )
    return dict(type=GroupSummarizer, groups=groups, models=described)


def choose_partitioner(num_datasets, workers, num_gpus):
    """Return the partitioner of inference.

    On GPUs the tasks of one model are spread over all of them; on a CPU, where only tiny models
    run, all is packed into one task a worker, since starting one takes 10 seconds.
    """
    if num_gpus:
        return dict(type=NaivePartitioner, n=max(1, -(-num_datasets // (2 * num_gpus))))
    return dict(type=PackingPartitioner, num_tasks=workers)
