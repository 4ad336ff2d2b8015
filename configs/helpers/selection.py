"""Reads what to run from a config's list of settings and from LLADA_* environment variables.

A variable wins over the setting of the same name (LLADA_MODELS over ``models``). Everything is
decided while the config is parsed: the dumped config holds the result and reads no variable.
``LLADA_DEMO=1`` puts the benchmark's demo in place of a config's settings: tiny models and
embedded data, which run anywhere in minutes; other variables still win over it.
"""

from os import environ

prefix = "LLADA_"

# Setting -> what its environment variable holds.
known_settings = dict(
    models="names of docs/models.md or NAME=PATH, separated by commas",
    scaling="METHOD or METHOD:option=number, separated by commas",
    lengths="tokens, separated by commas; default 1/2, 1, 2 and 4 times the trained length",
    depths="percent, separated by commas",
    repeats="samples a cell",
    data="embedded, needlebench, or the folder of NeedleBench files",
    language="en or zh",
    tokenizer="what counts lengths: model (its own), gpt-4, or a checkpoint's path",
    prompt="base (ends in the answer prefix) or chat",
    generation_length="tokens generated for a sample; default the model's",
    steps="denoising steps; default the model's",
    batch_size="prompts at a time; default the model's",
    workers="tasks at a time; default one a GPU, or one a core up to two on a CPU",
)
list_settings = ("models", "scaling", "lengths", "depths")
number_settings = ("lengths", "depths", "repeats", "generation_length", "steps", "batch_size")
number_settings += ("workers",)
choices = dict(language=("en", "zh"), prompt=("base", "chat"))
# What `read_settings` needs to know of a benchmark's settings; this is needle in a haystack's.
niah_table = dict(
    known=known_settings,
    lists=list_settings,
    numbers=number_settings,
    choices=choices,
    demo=dict(
        models=["tiny_llada"],
        scaling=["none", "ntk", "diffusion_ntk"],
        data="embedded",
        language="en",
        prompt="base",
    ),
)
# Settings of every benchmark.
common_settings = dict(
    demo="1 for tiny models on embedded data instead of the config's own settings",
    dtype="precision of the weights: bfloat16, float16 or float32; default by model and device",
)
common_choices = dict(demo=("0", "1"), dtype=("bfloat16", "float16", "float32"))


def list_variable(name):
    """Return the parts of a variable that holds a list; none where it is not set."""
    parts = environ.get(prefix + name, "").split(",")
    return [part.strip() for part in parts if part.strip()]


def is_demo():
    """Return whether the demo is asked for."""
    return environ.get(prefix + "DEMO", "").strip() == "1"


def read_settings(settings, table=niah_table, may_be_demo=True):
    """Merge a config's settings with the environment.

    Args:
        settings: Values by name; None for the default.
        table: The benchmark's settings: ``known`` (meaning by name), the names of ``lists`` and
            ``numbers``, ``choices`` by name, and the ``demo`` where the default is none.
        may_be_demo: Whether LLADA_DEMO=1 replaces the settings; False if that is done already.

    Returns:
        Two dictionaries by name: every known setting's value (None where none was given), and
        where it comes from.

    Raises:
        ValueError: For an unknown setting, LLADA_* variable or value; names the nearest.
    """
    import opencompass_llada.options

    table = dict(
        table,
        known={**table["known"], **common_settings},
        choices={**table["choices"], **common_choices},
    )
    known = table["known"]
    origin = "the config's settings"
    if may_be_demo and is_demo():
        settings, origin = table.get("demo", settings), "the demo"
    reject = opencompass_llada.options.reject_unknown
    variables = [prefix + name.upper() for name in known]
    reject("setting", settings, known)
    reject("variable", [name for name in environ if name.startswith(prefix)], variables)
    values, sources = {}, {}
    for name in known:
        variable = prefix + name.upper()
        text = environ.get(variable, "").strip()
        value, source = settings.get(name), origin
        if text:
            value, source = parse_variable(variable, name, text, table), f"${variable}"
        if value is not None:
            check_value(source, name, value, table)
        values[name], sources[name] = value, "default" if value is None else source
    return values, sources


def parse_variable(variable, name, text, table):
    """Turn a variable's text into a setting's value.

    Raises:
        ValueError: If a number is wanted and something else stands there.
    """
    if name not in (*table["lists"], *table["numbers"]):
        return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if name in table["numbers"]:
        if not parts or not all(part.isdecimal() for part in parts):
            raise ValueError(
                f"{variable}={text!r} must be whole numbers, separated by commas "
                f"({table['known'][name]})."
            )
        parts = [int(part) for part in parts]
    if name in table["lists"]:
        return list(dict.fromkeys(parts))
    if len(parts) != 1:
        raise ValueError(f"{variable}={text!r} must be one value ({table['known'][name]}).")
    return parts[0]


def check_value(source, name, value, table):
    """Check a setting's value, wherever it comes from.

    Raises:
        ValueError: With source, value, rule and what the setting holds.
    """
    import opencompass_llada.options

    wanted = int if name in table["numbers"] else str
    is_list = name in table["lists"]
    items = value if is_list and isinstance(value, list | tuple) else [value]
    lowest = 0 if name == "depths" else 1
    right = all(isinstance(item, wanted) and not isinstance(item, bool) for item in items)
    if right and wanted is int:
        right = all(item >= lowest for item in items)
    if not right or not items or (is_list and items is not value):
        kind = f"whole number from {lowest}" if wanted is int else "text"
        kind = f"a list of at least one {kind}" if is_list else f"one {kind}"
        raise ValueError(f"{name}={value!r} ({source}) must be {kind} ({table['known'][name]}).")
    if name in table["choices"]:
        opencompass_llada.options.reject_unknown(source + " value", items, table["choices"][name])


def announce(headline, values, sources, unset=()):
    """Write what is run, and why, to standard error: once, where the config is parsed.

    Args:
        headline: What is run.
        values: Settings; those that are None are left out.
        sources: Where each comes from.
        unset: Settings that are decided for each model and shown all the same.
    """
    from sys import stderr

    lines = [headline]
    for name, value in values.items():
        if value is not None or name in unset:
            shown = ",".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"  {name:<18}{'by model' if shown is None else shown}  [{sources[name]}]")
    stderr.write("\n".join(lines) + "\n")
