"""Model configs made of the table of models, for every benchmark and every RoPE scaling.

A config pulls functions in with ``read_base`` under names that start with two underscores, so that
they run for real and are dropped from the dumped config::

    with read_base():
        from .helpers.models import list_model_configs as __list_model_configs

The facts are in `model_facts`.
"""

from mmengine.config import read_base

from opencompass_llada.wrapper import LLaDACausalLM

with read_base():
    from .hardware import count_gpus
    from .model_facts import known_models
    from .model_variants import list_variants
    from .scalings import check_scaling, name_scaling, own_scalings, parse_scaling


def list_offered():
    """Return the facts of the models that can be had: an asset has to be shipped for that."""
    import opencompass_llada.assets

    folder, prefix = opencompass_llada.assets.FOLDER, opencompass_llada.assets.PREFIX
    return {
        name: facts
        for name, facts in known_models.items()
        if not facts["path"].startswith(prefix)
        or (folder / facts["path"].removeprefix(prefix)).exists()
    }


model_facts = list_offered()


def list_shipped():
    """List the offered models whose checkpoints are in the package, in the table's order."""
    import opencompass_llada.assets

    prefix = opencompass_llada.assets.PREFIX
    return [name for name, facts in model_facts.items() if facts["path"].startswith(prefix)]


def resolve_models(specs):
    """Return the names of models; `NAME=PATH` stands for another checkpoint of NAME's kind.

    What is known of NAME is taken to hold for the checkpoint at PATH, a post-trained one say. It
    is added to the table of this process under its own name, NAME-FOLDER.

    Raises:
        ValueError: For a name that is not in the table; the nearest is named.
    """
    import os
    import re

    import opencompass_llada.options

    names = []
    for spec in specs:
        name, equals, path = (part.strip() for part in spec.partition("="))
        opencompass_llada.options.reject_unknown("model", [name], model_facts)
        if equals and not path:
            raise ValueError(f"model {spec!r} names no path; write {name}=FOLDER or {name}.")
        if equals:
            folder = re.sub(r"[^A-Za-z0-9.-]+", "-", os.path.basename(path.rstrip("/")))
            title = f"{model_facts[name]['title']} ({folder})"
            path = os.path.abspath(os.path.expanduser(path)) if os.path.isdir(path) else path
            facts = dict(model_facts[name], path=path, title=title)
            name = f"{name}-{folder}"
            if model_facts.setdefault(name, facts) != facts:
                raise ValueError(f"model {spec!r}: another checkpoint's folder is {folder!r}, too.")
        names.append(name)
    return names


def find_facts(name):
    """Return the facts of a model that `resolve_models` returned."""
    return model_facts[name]


def list_model_configs(
    models,
    scalings=("none",),
    num_gpus=0,
    batch_size=None,
    num_steps=None,
    benchmark="niah",
    dtype=None,
    rows=None,
    chat=False,
):
    """Make the config of every model with every scaling.

    Args:
        models: Names of `model_facts`, or what `resolve_models` reads.
        scalings: What `scalings.parse_scaling` reads; ``all`` is each model's own.
        num_gpus: GPUs of the machine; a model takes one if there is one.
        batch_size: Prompts at a time, instead of the model's own.
        num_steps: Denoising steps, instead of the model's own; no effect on a model without any.
        benchmark: Whose generation settings; a key of the facts' ``generation``.
        dtype: Precision of the weights, instead of the model's own.
        rows: What to make instead of every pair, as far as it is about the models: dictionaries
            of ``model``, ``scaling`` and, where several are compared, ``num_steps``; any other
            key is put into the model's config.
        chat: Put the chat template around prompts of the models that are tuned to one.

    Raises:
        ValueError: For an unknown model or scaling, or one that does not go with the other.
    """
    names = resolve_models(models)
    if rows is None:
        rows = [
            dict(model=name, scaling=text)
            for name in names
            for text in own_scalings(scalings, model_facts[name])
        ]
    configs = []
    for row in rows:
        keys = dict(row)
        [name] = resolve_models([keys.pop("model")])
        text, steps = keys.pop("scaling"), keys.pop("num_steps", None)
        if name not in names:
            continue
        config = make_model_config(name, text, steps, benchmark)
        config["run_cfg"] = dict(num_gpus=min(1, num_gpus))
        config.update(keys)
        if chat and model_facts[name]["chat"]:
            config["chat"] = True
        if batch_size:
            config["batch_size"] = batch_size
        if dtype:
            config["dtype"] = dtype
        if num_steps:
            set_sampler(config, num_steps=num_steps, benchmark=benchmark)
        configs.append(config)
    return configs


def models_of_name(name):
    """Return the model configs that a file of configs/models offers, on a GPU if there is one.

    Args:
        name: The file's name without its ending, a key of `model_variants.list_variants`.

    Raises:
        ValueError: If the model is an asset that is not shipped.
    """
    model, scalings = list_variants()[name]
    if model not in model_facts:
        path = known_models[model]["path"]
        raise ValueError(
            f"--models {name}: {path!r} is not shipped with this version; use another."
        )
    configs = list_model_configs([model], scalings, num_gpus=count_gpus())
    for config in configs:
        # One token a step, then also for data sets with longer answers; and where the table's
        # steps fit the blocks of that benchmark's answers alone.
        steps = config.get("sampler", {}).get("num_steps")
        if steps == config["max_out_len"] or (steps and known_models[model].get("tuned_steps")):
            config["sampler"]["num_steps"] = None
    return configs


def make_model_config(name, scaling_text, num_steps, benchmark):
    """Make one model's config, as it is on every machine.

    Args:
        name: A key of `model_facts`.
        scaling_text: What `scalings.parse_scaling` reads.
        num_steps: Denoising steps instead of the benchmark's; they are then part of the abbr.
        benchmark: A key of the facts' ``generation``.
    """
    facts = model_facts[name]
    scaling = parse_scaling(scaling_text, facts["trained_length"])
    check_scaling(name, facts, scaling)
    suffix = name_scaling(scaling)
    if not facts.get("states_length", True):
        scaling["trained_length"] = facts["trained_length"]
    config = dict(
        type=LLaDACausalLM,
        abbr=name.replace("_", "-")
        + (f"_{suffix}" if suffix else "")
        + (f"_steps{num_steps}" if num_steps else ""),
        path=facts["path"],
        rope_scaling=scaling,
        max_out_len=facts["generation"][benchmark]["max_out_len"],
        batch_size=facts.get("batch_size", 1),
    )
    if "dtype" in facts:
        config["dtype"] = facts["dtype"]
    set_sampler(config, num_steps=num_steps, benchmark=benchmark)
    return config


def set_sampler(config, block_length=None, num_steps=None, benchmark="niah"):
    """Give a model's config its sampler: what its facts say, or what is given instead.

    A model without a sampler gets none, and one without blocks no block length.

    Args:
        config: Of `make_model_config`; changed in place.
        block_length: Tokens in a block, instead of the benchmark's.
        num_steps: Denoising steps, instead of the benchmark's.
        benchmark: A key of the facts' ``generation``.
    """
    facts = facts_of(config)
    generation = facts["generation"][benchmark]
    if "num_steps" not in generation:
        return
    sampler = dict(num_steps=num_steps or generation["num_steps"], **facts.get("sampler", {}))
    if "block_length" in generation:
        sampler["block_length"] = block_length or generation["block_length"]
    config["sampler"] = sampler


def facts_of(config):
    """Return the facts of the model that a config of `make_model_config` is about."""
    return next(facts for facts in model_facts.values() if facts["path"] == config["path"])


def describe_models(model_configs):
    """List what the summarizer says about models: title and trained length of each abbr."""
    return [
        dict(
            abbr=config["abbr"],
            title=title_of(config),
            trained_length=facts_of(config)["trained_length"],
        )
        for config in model_configs
    ]


def title_of(config):
    """Return a model's title, with the steps that its abbr says it takes instead of its own.

    Such a row is another line of the leaderboard, beside which no figure of the usual steps stands.
    """
    _, found, steps = config["abbr"].partition("_steps")
    return facts_of(config)["title"] + (f", steps {steps.partition('_')[0]}" if found else "")
