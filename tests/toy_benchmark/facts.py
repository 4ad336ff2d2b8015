"""States what is known of the toy benchmark."""

from opencompass_llada.benchmarks.benchmark import Benchmark, DataFiles, Group


def needed(dataset, kind):
    if kind == "toy_benchmark.samples.ToyDataset":
        yield dataset["path"], ["toy.jsonl"]


TOY = Benchmark(
    name="toy",
    title="Toy",
    dataset_classes=("toy_benchmark.samples.ToyDataset",),
    metrics=("hits",),
    has_more_metrics=False,
    is_percent=True,
    groups=(Group(name="both", members=("one", "two")),),
    headline="both",
    is_grid=False,
    source="this test",
    data=DataFiles(
        name="toy",
        folders={"me/toy": "data/toy"},
        files=("toy.jsonl",),
        fetch="hf download me/toy --local-dir FOLDER",
        needed=needed,
    ),
    plan="toy_benchmark.plan",
)
