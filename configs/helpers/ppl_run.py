"""Turns the settings of a perplexity run into models, data sets and task sizes."""

from mmengine.config import read_base

from opencompass_llada.runs.partitioner import PackingPartitioner

with read_base():
    from .models import describe_models, find_facts, list_model_configs, resolve_models
    from .niah_run import choose_partitioner, most_cells_a_task
    from .ppl_cells import ppl_cells
    from .selection import announce as announce_settings, read_settings

ppl_table = dict(
    known=dict(
        models="names of docs/models.md or NAME=PATH, separated by commas",
        scaling="METHOD or METHOD:option=number, separated by commas; all: those of docs/models.md",
        lengths="context lengths in the model's tokens; default 1/2 to 8 times the trained length",
        data="generated, a .txt or .jsonl file, a folder of .txt files, or hub:NAME",
        text_field="field of a jsonl or hub row; default text",
        hub_config="configuration of a hub data set",
        split="split of a hub data set; default test",
        estimator="bound or longllada",
        target="for the bound: whole (default), or how many last tokens are scored at every length",
        draws="masks drawn a target (default 16) or, for longllada, a chunk (8)",
        texts="texts taken; default 2 generated ones, else 1",
        windows="windows taken of each text; default 1",
        min_characters="shorter texts of a jsonl file or hub data set are passed over; default 1",
        batch_size="masks of one text at a time; default the model's",
        workers="tasks at a time; default one a GPU, or one a core up to two on a CPU",
    ),
    lists=("models", "scaling", "lengths"),
    numbers=("lengths", "draws", "texts", "windows", "min_characters", "batch_size", "workers"),
    choices=dict(estimator=("bound", "longllada")),
    demo=dict(
        models=["tiny_llada"],
        scaling=["none", "ntk", "diffusion_ntk"],
        data="generated",
        estimator="bound",
        draws=12,
    ),
)


def plan_run(settings, num_gpus, announce=True):
    """Work out a run from settings and environment variables, and check its texts.

    Args:
        settings: What `selection.read_settings` takes.
        num_gpus: GPUs of the machine.
        announce: Write what was taken, and why, to standard error.

    Returns:
        A dictionary: models, datasets, combinations (None where every model runs every data
        set), described_models for the summarizer, settings (resolved), workers, and the
        partitioners of inference and evaluation.

    Raises:
        ValueError: For settings that do not fit, or texts that are not there.
    """
    values, sources = read_settings(settings, ppl_table)
    fill_defaults(values, sources, num_gpus)
    models, datasets, combinations = [], [], []
    for lengths, names in group_models(values).items():
        configs = list_model_configs(
            names, values["scaling"], num_gpus, values["batch_size"], dtype=values["dtype"]
        )
        cells = ppl_cells(
            lengths=lengths,
            data=values["data"],
            estimator=values["estimator"],
            target=values["target"],
            num_draws=values["draws"],
            num_texts=values["texts"],
            windows_per_text=values["windows"],
            min_characters=values["min_characters"],
            text_field=values["text_field"],
            hub_config=values["hub_config"],
            split=values["split"],
        )
        check_texts(cells)
        models += configs
        datasets += [cell for cell in cells if cell["abbr"] not in {d["abbr"] for d in datasets}]
        combinations.append(dict(models=configs, datasets=cells))
    if announce:
        cells = sum(len(group["models"]) * len(group["datasets"]) for group in combinations)
        headline = f"Perplexity: {len(models)} models, {cells} points (model x length)"
        announce_settings(headline, values, sources, unset=("lengths",))
    return dict(
        models=models,
        datasets=datasets,
        combinations=combinations if len(combinations) > 1 else None,
        described_models=describe_models(models),
        settings=values,
        workers=values["workers"],
        partitioner=choose_partitioner(
            len(models), len(combinations[0]["datasets"]), values["workers"], num_gpus
        ),
        eval_partitioner=dict(
            type=PackingPartitioner,
            num_tasks=-(-len(models) * len(datasets) // (4 * most_cells_a_task)),
        ),
    )


def fill_defaults(values, sources, num_gpus):
    """Put the default of each setting that has one where none was given, with its reason."""
    from os import cpu_count

    values["models"] = resolve_models(values["models"])
    generated = values["data"] == "generated"
    defaults = dict(
        target=("whole", "default"),
        texts=(2 if generated else 1, "default: 2 generated texts, else 1"),
        windows=(1, "default"),
        text_field=("text", "default"),
        split=("test", "default"),
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
        sources["lengths"] = "default: 1/2, 1, 2, 4 and 8 times the trained length"
    values["target"] = read_target(values["target"], sources["target"])
    if not generated and not values["data"].startswith("hub:"):
        values["data"] = absolute(values["data"])


def read_target(value, source):
    """Return a number of tokens, or 'whole'."""
    if value != "whole" and not str(value).isdigit():
        raise ValueError(f"target={value!r} ({source}) must be a number of tokens, or 'whole'.")
    return value if value == "whole" else int(value)


def absolute(path):
    """Return a path that means the same in every folder; ``asset:`` paths do already."""
    from os.path import abspath, expanduser

    return path if path.startswith("asset:") else abspath(expanduser(path))


def group_models(values):
    """Return the names of the models that share lengths, by these lengths."""
    names_by_lengths = {}
    for name in values["models"]:
        trained = find_facts(name)["trained_length"]
        steps = (trained // 2, *(factor * trained for factor in (1, 2, 4, 8)))
        names_by_lengths.setdefault(tuple(values["lengths"] or steps), []).append(name)
    return names_by_lengths


def check_texts(cells):
    """Read the longest cell's texts, so that a fault shows before any model is loaded."""
    import opencompass_llada.benchmarks.perplexity.samples

    texts = opencompass_llada.benchmarks.perplexity.samples
    host_keys = ("abbr", "type", "reader_cfg", "infer_cfg", "eval_cfg")
    options = {name: value for name, value in cells[-1].items() if name not in host_keys}
    window = texts.parse_window_options(cells[-1]["infer_cfg"]["inferencer"]["window"])
    for row in texts.read_texts(texts.parse_text_options(options)):
        window.check_text(len(row["text"].encode()), "bytes")
