"""The models that configs know by name, each fact once, and model configs made of them.

A config pulls functions in with ``read_base`` under names that start with two underscores, so that
they run for real and are dropped from the dumped config::

    with read_base():
        from .helpers.models import list_model_configs as __list_model_configs
"""

from opencompass_llada.wrapper import LLaDACausalLM

# path: shipped asset or hub name; trained_length: tokens that the checkpoint saw in training;
# max_out_len, block_length and num_steps: how its needle-in-a-haystack figures were made.
model_facts = dict(
    tiny_llada=dict(
        title="tiny-llada",
        path="asset:tiny-llada",
        trained_length=512,
        max_out_len=16,
        block_length=16,
        num_steps=4,
        batch_size=2,
        dtype="float32",
    ),
    # LongLLaDA (arXiv 2506.14429, section 4.1): 32 new tokens in 32 steps.
    llada_8b_base=dict(
        title="LLaDA-8B-Base",
        path="GSAI-ML/LLaDA-8B-Base",
        trained_length=4096,
        max_out_len=32,
        block_length=32,
        num_steps=32,
    ),
    llada_8b_instruct=dict(
        title="LLaDA-8B-Instruct",
        path="GSAI-ML/LLaDA-8B-Instruct",
        trained_length=4096,
        max_out_len=32,
        block_length=32,
        num_steps=32,
    ),
    llada_1_5=dict(
        title="LLaDA-1.5",
        path="GSAI-ML/LLaDA-1.5",
        trained_length=4096,
        max_out_len=32,
        block_length=32,
        num_steps=32,
    ),
    # UltraLLaDA's repository: 32 new tokens in 16 steps, no further scaling.
    ultrallada=dict(
        title="UltraLLaDA",
        path="relaxe-system-lab/UltraLLaDA",
        trained_length=131072,
        max_out_len=32,
        block_length=32,
        num_steps=16,
    ),
)

# LongLLaDA's lambdas for 8K, 16K, 24K and 32K tokens (its Eq. 6, rounded up).
longllada_scalings = [f"ntk:theta_multiplier={factor}" for factor in (4, 14, 31, 55)]


def parse_scaling(text, trained_length):
    """Read a scaling's name: ``METHOD`` or ``METHOD:option=value[:option=value]``.

    Examples: ``none``, ``ntk`` (for four times the trained length), ``ntk:target_length=16384``,
    ``ntk:theta_multiplier=14`` (LongLLaDA's lambda).

    Returns:
        The keywords of rope_scaling in a model config, checked.
    """
    import opencompass_llada.rope_scaling

    method, *settings = text.strip().split(":")
    scaling = dict(type=method)
    for setting in settings:
        name, equals, value = setting.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = None
        # Neither infinite nor NaN, whose difference with itself is NaN.
        if not equals or number is None or number - number != 0:
            raise ValueError(
                f"scaling {text!r}: {setting!r} must be option=number, as in "
                "ntk:target_length=16384 or ntk:theta_multiplier=14."
            )
        scaling[name] = int(number) if number == int(number) else number
    if method not in ("none", "") and len(scaling) == 1:
        scaling["target_length"] = 4 * trained_length
    opencompass_llada.rope_scaling.parse_rope_scaling(scaling)
    return scaling


def name_scaling(scaling):
    """Return a scaling as it stands in file names, e.g. ``ntk-target_length2048``; '' for none."""
    options = [f"-{name}{value}" for name, value in scaling.items() if name != "type"]
    return "" if scaling["type"] == "none" else scaling["type"] + "".join(options)


def list_model_configs(models, scalings=("none",), num_gpus=0, batch_size=None, num_steps=None):
    """Make the config of every model with every scaling.

    Args:
        models: Names of `model_facts`.
        scalings: What `parse_scaling` reads.
        num_gpus: GPUs of the machine; a model takes one if there is one.
        batch_size: Prompts at a time, instead of the model's own.
        num_steps: Denoising steps, instead of the model's own.
    """
    import opencompass_llada.options

    opencompass_llada.options.reject_unknown("model", models, model_facts)
    configs = []
    for name in models:
        facts = model_facts[name]
        for text in scalings:
            scaling = parse_scaling(text, facts["trained_length"])
            suffix = name_scaling(scaling)
            config = dict(
                type=LLaDACausalLM,
                abbr=name.replace("_", "-") + (f"_{suffix}" if suffix else ""),
                path=facts["path"],
                rope_scaling=scaling,
                sampler=dict(
                    block_length=facts["block_length"],
                    num_steps=num_steps or facts["num_steps"],
                ),
                max_out_len=facts["max_out_len"],
                batch_size=batch_size or facts.get("batch_size", 1),
                run_cfg=dict(num_gpus=min(1, num_gpus)),
            )
            if "dtype" in facts:
                config["dtype"] = facts["dtype"]
            configs.append(config)
    return configs


def describe_models(model_configs):
    """List what the summarizer says about models: title and trained length of each abbr."""
    by_path = {facts["path"]: facts for facts in model_facts.values()}
    return [
        dict(
            abbr=config["abbr"],
            title=by_path[config["path"]]["title"],
            trained_length=by_path[config["path"]]["trained_length"],
        )
        for config in model_configs
    ]
