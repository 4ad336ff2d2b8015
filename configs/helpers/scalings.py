"""RoPE scalings by name, as configs and LLADA_SCALING give them."""


def parse_scaling(text, trained_length):
    """Read a scaling's name: ``METHOD`` or ``METHOD:option=value[:option=value]``.

    Examples: ``none``, ``ntk`` (for four times the trained length), ``ntk:target_length=16384``,
    ``ntk:theta_multiplier=14`` (LongLLaDA's lambda).

    Returns:
        The keywords of rope_scaling in a model config, checked.
    """
    import opencompass_llada.rope.methods

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
    opencompass_llada.rope.methods.parse_rope_scaling(scaling)
    return scaling


def own_scalings(texts, facts):
    """Return scalings with ``all`` replaced by none and what the table lists for a model.

    Args:
        texts: What `parse_scaling` reads, or ``all``.
        facts: What the table knows of the model.
    """
    found = []
    for text in texts:
        found += ["none", *facts["scalings"]] if text.strip() == "all" else [text]
    return list(dict.fromkeys(found))


def name_scaling(scaling):
    """Return a scaling as it stands in file names, e.g. ``ntk-target_length2048``; '' for none."""
    options = [f"-{name}{value}" for name, value in scaling.items() if name != "type"]
    return "" if scaling["type"] == "none" else scaling["type"] + "".join(options)


def check_scaling(name, facts, scaling):
    """Refuse a scaling that a model has no use for.

    Args:
        name: The model's, for the message.
        facts: What the table knows of it.
        scaling: Keywords of rope_scaling.

    Raises:
        ValueError: For ``diffusion_ntk`` with an autoregressive model.
    """
    if facts["kind"] == "autoregressive" and scaling["type"] == "diffusion_ntk":
        raise ValueError(
            f"scaling 'diffusion_ntk' is not for {name!r}: it puts 2T in the place of T because a "
            "bidirectional model sees relative positions from -(T-1) to T-1, and an "
            "autoregressive one sees those from 0 to T-1 only. Use ntk."
        )
