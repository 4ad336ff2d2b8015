"""What LongBench's summarizers are told: groups of tasks, and parts of the samples."""


def list_groups(benchmark="longbench", tasks=None):
    """List categories and averages; see `opencompass_llada.benchmarks.longbench.facts`."""
    import opencompass_llada.benchmarks.longbench.facts

    groups = opencompass_llada.benchmarks.longbench.facts.category_groups(benchmark, tasks)
    return [group.to_config() for group in groups]


def list_length_parts():
    """List LongBench-E's buckets with the metric of each."""
    import opencompass_llada.benchmarks.longbench.facts

    buckets = opencompass_llada.benchmarks.longbench.facts.BUCKETS
    return dict(all="score", **{name: f"score_{name}" for name in buckets})


def list_v2_parts():
    """List LongBench v2's difficulties and lengths with the metric of each."""
    import opencompass_llada.benchmarks.longbench.v2

    facts = opencompass_llada.benchmarks.longbench.v2
    names = (*facts.DIFFICULTIES, *facts.LENGTHS)
    return dict(all="accuracy", **{name: f"accuracy_{name}" for name in names})


longbench_groups = list_groups()
longbench_e_groups = list_groups("longbench_e")
longbench_e_parts = list_length_parts()
longbench_v2_parts = list_v2_parts()
