"""Turns the settings of a needle-in-a-haystack run into models, data sets and task sizes."""

from mmengine.config import read_base
from opencompass.partitioners import NaivePartitioner

from opencompass_llada.runs.partitioner import PackingPartitioner

with read_base():
    from ...needlebench.niah import data_paths, default_depths, default_repeats
    from ...needlebench.niah import longllada_lengths, niah_cells
    from .models import describe_models, find_facts, list_model_configs, list_shipped
    from .models import resolve_models
    from .selection import announce as announce_settings, read_settings

# OpenCompass formats each task's config at some 30 data sets a second, and starting a task takes
# about 10 seconds of a core.
most_cells_a_task = 50


def plan_run(settings, num_gpus, announce=True, rows=None):
    """Work out a run from settings and environment variables, and check its data.

    Args:
        settings: What `selection.read_settings` takes.
        num_gpus: GPUs of the machine.
        announce: Write what was taken, and why, to standard error.
        rows: What runs, as `models.list_model_configs` reads it, instead of every model with every
            scaling; the models of the settings have to be theirs.

    Returns:
        A dictionary: models, datasets, combinations (None where every model runs every data
        set), described_models for the summarizer, settings (resolved), workers (tasks at a time),
        and the partitioners of inference and evaluation.
    """
    values, sources = read_settings(settings, may_be_demo=rows is None)
    fill_defaults(values, sources, num_gpus)
    groups = group_models(values)
    check_groups(groups)
    models, datasets, combinations = [], [], []
    for cells, names in groups:
        configs = list_model_configs(
            names,
            values["scaling"],
            num_gpus,
            values["batch_size"],
            values["steps"],
            dtype=values["dtype"],
            rows=rows,
            chat=values["prompt"] == "chat",
        )
        models += configs
        datasets += [cell for cell in cells if cell["abbr"] not in {d["abbr"] for d in datasets}]
        combinations.append(dict(models=configs, datasets=cells))
    if announce:
        cells = sum(len(combination["datasets"]) for combination in combinations)
        headline = f"Needle in a haystack: {len(models)} models, {cells} cells (length x depth)"
        announce_settings(headline, values, sources, unset=("lengths",))
    return dict(
        models=models,
        datasets=datasets,
        combinations=combinations if len(groups) > 1 else None,
        described_models=describe_models(models),
        settings=values,
        workers=values["workers"],
        partitioner=choose_partitioner(len(models), len(groups[0][0]), values["workers"], num_gpus),
        eval_partitioner=dict(
            type=PackingPartitioner,
            num_tasks=-(-len(models) * len(groups[0][0]) // (4 * most_cells_a_task)),
        ),
    )


def fill_defaults(values, sources, num_gpus):
    """Put the default of each setting that has one where none was given, with its reason."""
    from os import cpu_count

    if values["models"] is None:
        values["models"], sources["models"] = list_shipped(), "default: all that are shipped"
    values["models"] = resolve_models(values["models"])
    trained = min(find_facts(name)["trained_length"] for name in values["models"])
    embedded = values["data"] == "embedded"
    kind = "embedded" if embedded else "needlebench"
    repeats = default_repeats[kind]
    gpt4 = not embedded and trained >= longllada_lengths[0]
    defaults = dict(
        depths=(
            list(default_depths[kind]),
            "default: every 25 %" if embedded else "default: every 10 %",
        ),
        repeats=(repeats, "default: for embedded data" if embedded else "default: LongLLaDA's"),
        tokenizer=(
            "gpt-4" if gpt4 else "model",
            "default: as NeedleBench counts"
            if gpt4
            else "default: embedded data or a trained length below NeedleBench's shortest",
        ),
        workers=(
            num_gpus or min(2, cpu_count() or 1),
            f"default: {num_gpus} GPUs" if num_gpus else "default: no GPU, up to two cores",
        ),
    )
    for name, (value, reason) in defaults.items():
        if values[name] is None:
            values[name], sources[name] = value, reason
    if values["lengths"] is None:
        if values["tokenizer"] == "gpt-4":
            values["lengths"] = list(longllada_lengths)
            sources["lengths"] = "default: LongLLaDA's"
        elif embedded:  # one set for all, so that they stand side by side
            values["lengths"] = [trained // 2, trained, 2 * trained, 4 * trained]
            sources["lengths"] = "default: 1/2, 1, 2 and 4 times the shortest trained length"
        else:
            sources["lengths"] = known_lengths_reason
    if not values["scaling"]:
        values["scaling"], sources["scaling"] = ["none"], "default"


known_lengths_reason = "default: 1/2, 1, 2 and 4 times the trained length of each model"


def group_models(values):
    """Pair each set of cells with the models that run it: lengths and tokenizer may differ.

    A tokenizer is known by its content: models with copies of one are asked the same questions, and
    the first one's path is in the cells. For chat prompts its template counts, too.

    Returns:
        Pairs of (data set configs, model names).
    """
    import opencompass_llada.benchmarks.counting
    import opencompass_llada.benchmarks.needle.haystack

    counting = opencompass_llada.benchmarks.counting
    named = values["data"] in data_paths
    path = data_paths[values["data"]] if named else values["data"]
    if not path.startswith("asset:"):
        # The full path, so that the dumped config does not depend on COMPASS_DATA_CACHE.
        folder = opencompass_llada.benchmarks.needle.haystack.resolve_data_directory(path)
        path = str(folder.resolve())
    names_by_cells = {}
    for name in values["models"]:
        facts = find_facts(name)
        trained = facts["trained_length"]
        lengths = values["lengths"] or (trained // 2, trained, 2 * trained, 4 * trained)
        tokenizer = facts["path"] if values["tokenizer"] == "model" else values["tokenizer"]
        generation_length = values["generation_length"] or niah_length(facts)
        template = counting.find_template(tokenizer) if values["prompt"] == "chat" else None
        content = (counting.name_tokenizer(tokenizer), template)
        key = (tuple(lengths), content, generation_length)
        names_by_cells.setdefault(key, (tokenizer, []))[1].append(name)
    groups = []
    for (lengths, _, generation_length), (tokenizer, names) in names_by_cells.items():
        cells = niah_cells(
            data=values["data"] if named else "needlebench",
            language=values["language"],
            lengths=lengths,
            depths=values["depths"],
            tokenizer=tokenizer,
            num_repeats=values["repeats"],
            generation_length=generation_length,
            chat=values["prompt"] == "chat",
            path=path,
        )
        groups.append((cells, names))
    return groups


def niah_length(facts):
    """Return how many tokens a model generates for a sample."""
    return facts["generation"]["niah"]["max_out_len"]


def check_groups(groups):
    """Make the shortest and the longest cell of each group, so that a fault shows at once."""
    import opencompass_llada.benchmarks.needle.dataset

    for cells, _ in groups:
        opencompass_llada.benchmarks.needle.dataset.check_cells(cells)


def choose_partitioner(num_models, cells_a_model, workers, num_gpus):
    """Return the partitioner of inference.

    On GPUs tasks hold one model each and at most 50 cells. On a CPU, where only tiny models run,
    all models are packed into one task a worker, or a few where tasks would get too large.
    """
    if num_gpus:
        tasks = -(-cells_a_model // most_cells_a_task)
        return dict(type=NaivePartitioner, n=-(-cells_a_model // tasks))
    rounds = -(-num_models * cells_a_model // (2 * most_cells_a_task * workers))
    return dict(type=PackingPartitioner, num_tasks=rounds * workers)
