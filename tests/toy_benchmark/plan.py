"""Plans runs of the toy benchmark."""

from opencompass_llada.benchmarks.cells import PROMPT_TEMPLATE, generate_with, read_with
from opencompass_llada.runs.planning import DataSets, Plan, summarize_with
from opencompass_llada.runs.settings import number, text, texts
from toy_benchmark.samples import ToyDataset

SETTINGS = {
    "data": text("the folder of toy.jsonl"),
    "tasks": texts("one, two; default both", "one", "two"),
    "samples": number("samples a task"),
    "batch_size": number("prompts at a time"),
}


def list_cells(values):
    values.default("tasks", ["one", "two"])
    return [
        {
            "abbr": f"toy_{task}",
            "type": "toy_benchmark.samples.ToyDataset",
            "path": values["data"] or "me/toy",
            "task": task,
            "reader_cfg": read_with("answer", values["samples"]),
            "infer_cfg": generate_with({"type": PROMPT_TEMPLATE, "template": "{prompt}"}, 8),
            "eval_cfg": {"evaluator": {"type": "toy_benchmark.samples.ToyEvaluator"}},
        }
        for task in values["tasks"]
    ]


def make_groups(values, table, make_models):
    models = make_models(values["models"])
    return [{"models": models, "datasets": list_cells(values)}]


def check_data(values, cells):
    for cell in cells:
        ToyDataset.load(cell["path"], cell["task"])


PLAN = Plan(
    headline="Toy: {models} models, {datasets} tasks",
    settings=SETTINGS,
    demo={"models": ["tiny_llada"]},
    fill_defaults=lambda values, trained_length: None,
    make_groups=make_groups,
    check_data=check_data,
    make_summarizer=lambda values, run: summarize_with("GroupSummarizer"),
    dump_details=True,
)
DATA_SETS = DataSets(settings=SETTINGS, list_cells=list_cells)
