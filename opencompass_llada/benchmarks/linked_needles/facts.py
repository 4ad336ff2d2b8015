"""States what is known of linked needles."""

from opencompass_llada.benchmarks.generated.task import state_benchmark

BENCHMARKS = (
    state_benchmark(
        "linked_needles",
        title="linked needles",
        source="after NoLiMa (arXiv 2502.05167): answers that contain the name",
    ),
)
