"""States what is known of coreference."""

from opencompass_llada.benchmarks.generated.task import state_benchmark

BENCHMARKS = (
    state_benchmark(
        "coreference",
        title="multi-round coreference",
        source="after OpenAI's MRCR (huggingface.co/datasets/openai/mrcr): ratio of texts",
    ),
)
