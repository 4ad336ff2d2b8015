"""States what is known of section lists."""

from opencompass_llada.benchmarks.generated.task import state_benchmark

BENCHMARKS = (
    state_benchmark(
        "section_lists",
        title="section lists",
        source="longest common subsequence over the longer list (Bakkelund, 2009)",
    ),
)
