"""Lists the data sets of several needles: retrieval, one a length, and reasoning, one a cell.

Retrieval hides a needle at every depth of the grid and asks for all of them. The prompt of a base
model ends in the beginning of the answer; there is no answer turn after it.
"""

from __future__ import annotations

from opencompass_llada.benchmarks import cells
from opencompass_llada.benchmarks.cells import Config
from opencompass_llada.benchmarks.needle.plan import (
    CELL_SETTINGS,
    DATA_PATHS,
    DEPTHS_BY_TEN,
    LONGLLADA_LENGTHS,
    describe_haystack,
)
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs import planning
from opencompass_llada.runs.settings import Settings, number, numbers, text, token_lengths

#: For each data, each language that it has. NeedleBench's own Chinese sets read zh_finance.jsonl
#: and the like; zh_all.jsonl holds the same kinds of text.
HAYSTACKS: dict[str, dict[str, Config]] = {
    "needlebench": {
        "en": {"language": "English", "file_list": ["PaulGrahamEssays.jsonl"]},
        "zh": {"language": "Chinese", "file_list": ["zh_all.jsonl"]},
    },
    "embedded": {"en": {"language": "English", "file_list": ["synthetic_en.jsonl"]}},
}
_DATASETS = "opencompass_llada.benchmarks.multi_needle.dataset"


def _list_cells(values: Settings) -> list[Config]:
    """List the data sets of one task; embedded ones at tiny-llada's lengths."""
    values.defaults(task="retrieval", data="needlebench", language="en")
    data = values["data"] if values["data"] in DATA_PATHS else "needlebench"
    if values["task"] == "reasoning":
        reject_unknown("data of multi-needle reasoning", [data], ["needlebench"])
    if data == "embedded":  # from once to four times its trained length of 512 tokens
        values.defaults(
            lengths=(512, 1024, 2048), depths=[10, 50, 90], repeats=4, needle_draws="independent"
        )
    planning.default_by_name(values)
    is_short = data == "embedded" or values["task"] == "reasoning"
    values.defaults(
        lengths=LONGLLADA_LENGTHS,
        depths=list(DEPTHS_BY_TEN),
        tokenizer="gpt-4",
        repeats=10,
        generation_length=64 if is_short else 256,
        needles=2,
        gap=10,
    )
    language = values["language"]
    name, ending, common = describe_haystack(values, HAYSTACKS, {"type": cells.LITERAL_TEMPLATE})
    common["benchmark"] = "needlebench_multi"
    if values["task"] == "retrieval":
        return [
            {
                "abbr": f"multi_retrieval_{name}_length{length}_{ending}",
                "type": f"{_DATASETS}.MultiNeedleRetrievalDataset",
                "task": f"multi_retrieval_{language}",
                "length": length,
                "depths": values["depths"],
                "eval_cfg": cells.score_with("multi_needle.dataset.MultiNeedleRetrievalEvaluator"),
                **common,
            }
            for length in values["lengths"]
        ]
    task = f"multi_reasoning{values['needles']}"
    return [
        {
            "abbr": f"{task}_{name}_length{length}_{ending}_depth{depth:03d}",
            "type": f"{_DATASETS}.MultiNeedleReasoningDataset",
            "task": f"{task}_{language}_depth{depth:03d}",
            "length": length,
            "depth": depth,
            "num_needles": values["needles"],
            "diff": values["gap"],
            "eval_cfg": cells.score_with("multi_needle.dataset.MultiNeedleReasoningEvaluator"),
            **common,
            "needle_file_name": f"multi_needle_reasoning_{language}.json",
        }
        for depth in values["depths"]
        for length in values["lengths"]
    ]


DATA_SETS = planning.DataSets(
    settings={
        "task": text(
            "retrieval (all needles) or reasoning (what follows from them)",
            *("retrieval", "reasoning"),
        ),
        "lengths": token_lengths("tokens, separated by commas; default LongLLaDA's"),
        "depths": numbers("percent, separated by commas; of reasoning's first needle", lowest=0),
        "needles": number("steps of a derivation, 2 to 5; default 2"),
        "gap": number("percent of the context between two needles of a derivation; default 10"),
        "repeats": number("samples a cell"),
        "data": text("embedded (retrieval alone), needlebench, or the folder of its files"),
        "language": text("en or zh", "en", "zh"),
        "tokenizer": text("what counts lengths: gpt-4, or a checkpoint's path"),
        "needle_draws": CELL_SETTINGS["needle_draws"],
        "needle_seed": CELL_SETTINGS["needle_seed"],
        "prompt": text("base (ends in the answer's beginning) or chat", "base", "chat"),
        "generation_length": number("tokens generated for a sample"),
    },
    list_cells=_list_cells,
)
