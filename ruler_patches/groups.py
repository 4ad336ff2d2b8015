"""RULER's group averages, as the two papers report them, for summarizers of configs.

A config takes a table with `read_base`. They stand in `opencompass_llada.benchmarks.ruler.facts`.
"""


def list_groups(name):
    """Return a table of groups as configs hold it."""
    import opencompass_llada.benchmarks.ruler.facts

    groups = getattr(opencompass_llada.benchmarks.ruler.facts, name)
    return [group.to_config() for group in groups]


longllada_groups = list_groups("LONGLLADA_GROUPS")
ultrallada_groups = list_groups("ULTRALLADA_GROUPS")
ruler_groups = list_groups("RULER_GROUPS")
