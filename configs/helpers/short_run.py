"""Turns the settings of a short-context run into models, data sets and task sizes."""

from mmengine.config import read_base
from opencompass.partitioners import NaivePartitioner

from opencompass_llada.report.summarizers import SideBySideSummarizer
from opencompass_llada.runs.partitioner import PackingPartitioner

with read_base():
    from .models import describe_models, find_facts, list_model_configs, resolve_models
    from .selection import announce as announce_settings, read_settings
    from .short_facts import (
        base_short,
        chat_tasks,
        embedded_draws,
        embedded_short,
        embedded_tasks,
        generation_tasks,
        likelihood_draws,
        likelihood_tasks,
    )
    from .short_sets import embedded_cells, short_cells

short_table = dict(
    known=dict(
        models="names of docs/models.md or NAME=PATH, separated by commas",
        scaling="METHOD or METHOD:option=number, separated by commas; all: those of docs/models.md",
        tasks="names, separated by commas; default all that the data has",
        data="embedded, opencompass (where it looks), or a folder laid out as its data/",
        samples="samples a data set; default all",
        generation_length="tokens generated, in as many steps, instead of the published numbers",
        draws="masks drawn for a choice, instead of the published numbers",
        batch_size="prompts (or draws) at a time; default the model's",
        workers="tasks at a time; default one a GPU, or one a core up to two on a CPU",
    ),
    lists=("models", "scaling", "tasks"),
    numbers=("samples", "generation_length", "draws", "batch_size", "workers"),
    choices=dict(),
    demo=dict(models=["tiny_llada"], scaling=["none"], data="embedded"),
)
all_tasks = (*generation_tasks, *likelihood_tasks)


def plan_run(settings, num_gpus, announce=True):
    """Work out a run from settings and environment variables, and check its data.

    Args:
        settings: Values of `short_table`'s names; None for the default.
        num_gpus: GPUs of the machine.
        announce: Write what was taken, and why, to standard error.

    Returns:
        A dictionary: models, datasets, combinations, settings (resolved), workers (tasks at a
        time), summarizer, and the partitioners of inference and evaluation.

    Raises:
        ValueError: For settings that do not fit, or data that is not there.
    """
    values, sources = read_settings(settings, short_table)
    fill_defaults(values, sources, num_gpus)
    combinations = [
        dict(models=[config], datasets=make_cells(values, tasks, chat))
        for name in values["models"]
        for chat, generation, tasks in group_tasks(values, find_facts(name))
        for config in make_models(values, name, generation, chat, num_gpus)
    ]
    datasets = {cell["abbr"]: cell for group in combinations for cell in group["datasets"]}
    if values["data"] != "embedded":
        check_data(datasets.values())
    if announce:
        rows = len({group["models"][0]["abbr"] for group in combinations})
        announce_settings(
            f"Short context: {rows} models, {len(datasets)} data sets", values, sources
        )
    return dict(
        models=[group["models"][0] for group in combinations],
        datasets=list(datasets.values()),
        combinations=combinations,
        settings=values,
        workers=values["workers"],
        summarizer=make_summarizer(datasets, combinations),
        partitioner=choose_partitioner(len(datasets), values["workers"], num_gpus),
        eval_partitioner=dict(type=PackingPartitioner, num_tasks=1),
    )


def fill_defaults(values, sources, num_gpus):
    """Put the default of each setting that has one where none was given, with its reason."""
    from os import cpu_count

    import opencompass_llada.options

    values["models"] = resolve_models(values["models"])
    embedded = values["data"] == "embedded"
    at_hand = embedded_tasks if embedded else all_tasks
    defaults = dict(
        tasks=(list(at_hand), "default: all that the data has"),
        scaling=(["none"], "default"),
        workers=(
            num_gpus or min(2, cpu_count() or 1),
            f"default: {num_gpus} GPUs" if num_gpus else "default: no GPU, up to two cores",
        ),
    )
    defaults["draws"] = (
        (embedded_draws, "default on embedded data, for speed")
        if embedded
        else (likelihood_draws, "default: LLaDA's")
    )
    for name, (value, reason) in defaults.items():
        if values[name] is None:
            values[name], sources[name] = value, reason
    opencompass_llada.options.reject_unknown("task of the data", values["tasks"], at_hand)


def group_tasks(values, facts):
    """Group a model's tasks by how it generates at them.

    Returns:
        Triples: whether the data sets are for chat, the generation settings (`base_short` and the
        like) and the tasks. A base model has one group; choices by likelihood need no settings.

    Raises:
        ValueError: For a chat model that none of the tasks is for.
    """
    if not facts["chat"]:
        small = values["data"] == "embedded" and "dtype" in facts
        return [(False, embedded_short if small else base_short, values["tasks"])]
    groups = []
    for task in values["tasks"]:
        if task not in chat_tasks:
            continue
        generation = facts.get("short", {}).get(task, base_short)
        for _, known, tasks in groups:
            if known == generation:
                tasks.append(task)
                break
        else:
            groups.append((True, generation, [task]))
    if not groups:
        raise ValueError(
            f"tasks={values['tasks']}: {facts['title']!r} is a chat model, which is asked "
            f"{', '.join(chat_tasks)} only; name one of these, or a base model."
        )
    return groups


def make_models(values, name, generation, chat, num_gpus):
    """Return a model's configs, one a scaling, with the generation settings of some tasks."""
    configs = list_model_configs(
        [name], values["scaling"], num_gpus, values["batch_size"], dtype=values["dtype"], chat=chat
    )
    facts = find_facts(name)
    length = values["generation_length"]
    given = dict(generation)
    if length:
        blocks = given["block_length"] != given["max_out_len"]
        given["num_steps"] = given["max_out_len"] = length
        given["block_length"] = min(given["block_length"], length) if blocks else length
    for config in configs:
        config["max_out_len"] = given["max_out_len"]
        if not chat:
            config["likelihood"] = dict(num_draws=values["draws"])
        own = facts["generation"]["niah"]
        if "num_steps" not in own:
            continue
        dropped = ("max_out_len",) if "block_length" in own else ("max_out_len", "block_length")
        sampler = {key: value for key, value in given.items() if key not in dropped}
        config["sampler"] = dict(facts.get("sampler", {}), **sampler)
    return configs


def make_cells(values, tasks, chat):
    """List the data set configs of tasks."""
    options = dict(samples=values["samples"])
    if values["data"] == "embedded":
        return embedded_cells(tasks, chat, **options)
    folder = None if values["data"] == "opencompass" else absolute(values["data"])
    return short_cells(tasks, chat, folder, **options)


def absolute(path):
    """Return a path that means the same in every folder."""
    from os.path import abspath, expanduser

    return abspath(expanduser(path))


def check_data(cells):
    """Read every data set once, so that a fault shows before any model is loaded.

    Raises:
        ValueError: With the data set, what went wrong and what to do.
    """
    import opencompass_llada.benchmarks.stock

    for cell in cells:
        opencompass_llada.benchmarks.stock.check_data_set(cell)


def make_summarizer(datasets, combinations):
    """Return OpenCompass's table of models side by side, with MMLU's mean over subjects."""
    groups, lines = [], []
    for abbr in datasets:
        base, chat = abbr.removesuffix("_chat"), abbr.endswith("_chat")
        if not base.startswith("mmlu_"):
            lines.append(abbr)
            continue
        name = "mmlu_chat" if chat else "mmlu"
        if name not in lines:
            lines.append(name)
            groups.append(dict(name=name, subsets=[]))
        next(group for group in groups if group["name"] == name)["subsets"].append(abbr)
    configs = {group["models"][0]["abbr"]: group["models"][0] for group in combinations}
    return dict(
        type=SideBySideSummarizer,
        dataset_abbrs=lines,
        summary_groups=groups,
        models=describe_models(configs.values()),
    )


def choose_partitioner(num_datasets, workers, num_gpus):
    """Return the partitioner of inference.

    On GPUs the data sets of one model are spread over all of them; on a CPU, where only tiny
    models run, all is packed into one task a worker, since starting one takes 10 seconds.
    """
    if num_gpus:
        return dict(type=NaivePartitioner, n=max(1, -(-num_datasets // (2 * num_gpus))))
    return dict(type=PackingPartitioner, num_tasks=workers)
