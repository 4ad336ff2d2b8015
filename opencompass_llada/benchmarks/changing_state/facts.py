"""States what is known of changing state."""

from opencompass_llada.benchmarks.generated.task import state_benchmark

BENCHMARKS = (
    state_benchmark(
        "changing_state",
        title="changing state",
        source="this package: the share of answers that name the value, and no other",
    ),
)
