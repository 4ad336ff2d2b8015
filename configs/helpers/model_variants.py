"""The names that `--models NAME` takes: each model of the table, plain and with its scalings.

Names only; `models` makes the configs, `write_models` the files.
"""

from mmengine.config import read_base

with read_base():
    from .model_facts import known_models


def list_variants():
    """List every name with its model and scalings, in the order of the table.

    ``NAME`` is without scaling, ``NAME_ntk14`` and ``NAME_diffusion_ntk_32k`` have one each, and
    ``NAME_ntk`` and ``NAME_diffusion_ntk`` all of a method that there are.

    Returns:
        A dictionary of pairs: a key of `known_models`, and scalings as `scalings.parse_scaling`
        reads them.
    """
    variants = {}
    for name, facts in known_models.items():
        variants[name] = (name, ["none"])
        for method in dict.fromkeys(text.split(":")[0] for text in facts["scalings"]):
            texts = [text for text in facts["scalings"] if text.split(":")[0] == method]
            if len(texts) > 1 or texts == [method]:
                variants[f"{name}_{method}"] = (name, texts)
            for text in texts:
                if text != method:
                    variants[f"{name}_{name_option(text)}"] = (name, [text])
    return variants


def name_option(text):
    """Return a scaling as it stands in a name: ``ntk14``, or ``diffusion_ntk_32k``."""
    method, _, setting = text.partition(":")
    option, _, value = setting.partition("=")
    if option == "theta_multiplier":
        return method + value
    return f"{method}_{int(value) // 1024}k"
