"""States what is known of graph walks."""

from opencompass_llada.benchmarks.generated.task import state_benchmark

BENCHMARKS = (
    state_benchmark(
        "graph_walks",
        title="graph walks",
        source="after OpenAI's GraphWalks (huggingface.co/datasets/openai/graphwalks): F1 of sets",
    ),
)
