"""Turns the settings of a run of every data set config into models, data sets and task sizes."""

from mmengine.config import read_base

from opencompass_llada.runs.partitioner import PackingPartitioner

with read_base():
    from .models import list_model_configs
    from .selection import announce as announce_settings, read_settings

datasets_table = dict(
    known=dict(
        models="names of docs/models.md, separated by commas",
        datasets="names of configs/datasets, separated by commas; default all",
        samples="samples of each cell",
        prompt_limit="tokens of a prompt that the model gets; the middle of longer ones is dropped",
        generation_length="most tokens generated for a sample",
        steps="denoising steps",
        absent="skip, or error where a data set's files are not on this machine",
    ),
    lists=("models", "datasets"),
    numbers=("samples", "prompt_limit", "generation_length", "steps"),
    choices=dict(absent=("skip", "error")),
)


def plan_run(settings, num_gpus, announce=True):
    """Work out a run from settings and environment variables, and find its data.

    Args:
        settings: Values of `datasets_table`'s names; None for the default.
        num_gpus: GPUs of the machine.
        announce: Write what was taken, and why, to standard error.

    Returns:
        A dictionary: models, datasets, settings (resolved), workers (tasks at a time), sets (what
        the summarizer is told), and the partitioners of inference and evaluation.

    Raises:
        ValueError: For a wrong setting; for data that is not there, if absent='error'.
    """
    import opencompass_llada.runs.every_data_set

    every = opencompass_llada.runs.every_data_set
    values, sources = read_settings(settings, datasets_table)
    files = every.find_data_sets(values["datasets"])
    sets, datasets = [], []
    for file in files:
        cells = []
        if not file.absent:
            cells = every.cut_cells(file, values["samples"], values["generation_length"])
        elif values["absent"] == "error":
            raise ValueError(f"absent='error': data set config {file.name}: {file.absent}")
        datasets += cells
        names = [cell["abbr"] for cell in cells]
        sets.append(dict(name=file.name, datasets=names, absent=file.absent))
    if announce:
        skipped = [file.name for file in files if file.absent]
        headline = f"Every data set: {len(files)} configs, {len(datasets)} cells"
        headline += f"; no data for {', '.join(skipped)}" if skipped else ""
        announce_settings(headline, values, sources)
    return dict(
        models=make_models(values, num_gpus),
        datasets=datasets,
        settings=values,
        workers=num_gpus or 1,
        sets=sets,
        partitioner=dict(type=PackingPartitioner, num_tasks=num_gpus or 1),
        eval_partitioner=dict(type=PackingPartitioner, num_tasks=1),
    )


def make_models(values, num_gpus):
    """Return the model configs: prompts cut in the middle, answers in one block."""
    configs = list_model_configs(values["models"], num_gpus=num_gpus, dtype=values["dtype"])
    length = values["generation_length"]
    for config in configs:
        config["max_out_len"] = length
        config["likelihood"] = dict(num_draws=4)
        config["max_seq_len"], config["drop_middle"] = values["prompt_limit"], True
        if "sampler" in config:  # an autoregressive model has none
            config["sampler"] = dict(block_length=length, num_steps=values["steps"])
    return configs
