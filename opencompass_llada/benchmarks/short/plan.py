"""Plans short-context runs on OpenCompass's own data sets, set up for base or chat models.

Loaders, few-shot examples, post-processing and scores are OpenCompass's. For a base model the
prompt ends where its answer begins, with no turn after it, and multiple choice is by likelihood of
the options given the rest. Tokens generated and masks drawn are those of the model's config.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada import assets
from opencompass_llada.benchmarks import data_checks
from opencompass_llada.benchmarks.cells import Config, plain_config
from opencompass_llada.benchmarks.short.facts import (
    ALL_TASKS,
    BASE_SHORT,
    BASE_STOPS,
    CHAT_TASKS,
    EMBEDDED_DRAWS,
    EMBEDDED_SHORT,
    EMBEDDED_TASKS,
    LIKELIHOOD_DRAWS,
    LIKELIHOOD_PER,
    LIKELIHOOD_TASKS,
    Generation,
)
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs import planning
from opencompass_llada.runs.model_configs import ModelTable
from opencompass_llada.runs.model_table import KnownModel
from opencompass_llada.runs.planning import Combination, MakeModels, Run
from opencompass_llada.runs.settings import Settings, number, text, texts

#: Task -> OpenCompass's config for base models and, where there is one, for chat models.
STOCK_CONFIGS = {
    "gsm8k": ("gsm8k/gsm8k_gen_1d7fe4", "gsm8k/gsm8k_gen_1d7fe4"),
    "math": ("math/math_4shot_base_gen_db136b", "math/math_0shot_gen_11c4b5"),
    "humaneval": ("humaneval/internal_humaneval_gen_ce6b06", "humaneval/humaneval_gen_8e312c"),
    "mbpp": ("mbpp/mbpp_gen_830460", "mbpp/mbpp_gen_830460"),
    "mmlu": ("mmlu/mmlu_ppl_ac766d", "mmlu/mmlu_gen_a484b3"),
    "arc_c": ("ARC_c/ARC_c_ppl_d52a21", "ARC_c/ARC_c_gen_1e0de5"),
    "hellaswag": ("hellaswag/hellaswag_ppl_9dbb12", "hellaswag/hellaswag_gen_6faab5"),
    "winogrande": ("winogrande/winogrande_5shot_ll_252f01", ""),
}
#: The subject of MMLU that the sample set has.
EMBEDDED_SUBJECT = "miscellaneous"
_INFERENCERS = "opencompass.openicl.icl_inferencer"


def _list_by_name(values: Settings) -> list[Config]:
    """List data sets with answers of 256 tokens, or 512 for chat models, 16 of the sample set."""
    chat = values["prompt"] == "chat"
    _fill_defaults(values, 0, CHAT_TASKS if chat else ALL_TASKS)
    length = 16 if values["data"] == "embedded" else 512 if chat else 256
    values.default("generation_length", length)
    return _list_cells(values, values["tasks"], chat, values["generation_length"])


def _list_cells(
    values: Settings, tasks: Iterable[str], chat: bool, generation_length: int | None
) -> list[Config]:
    """List the data set configs of tasks; without a length the model's own number is generated."""
    from opencompass.utils.datasets_info import DATASETS_MAPPING

    embedded = values["data"] == "embedded"
    folder = os.path.abspath(os.path.expanduser(values["data"]))
    if embedded:
        folder = str(assets.resolve_asset("asset:short"))
    cells = []
    for task in tasks:
        for cell in _read_stock(STOCK_CONFIGS[task][chat]):
            subject = f"_{cell['name']}" if task == "mmlu" else ""
            if subject and embedded and cell["name"] != EMBEDDED_SUBJECT:
                continue
            cell["abbr"] = f"{task}{subject}" + ("_chat" if chat else "")
            if values["data"] != "opencompass":  # laid out as OpenCompass's own data/
                place = DATASETS_MAPPING[cell["path"]]["local"].removeprefix("./data/")
                cell["path"] = f"{folder}/{place.rstrip('/')}"
            if values["samples"]:
                cell["reader_cfg"]["test_range"] = f"[0:{values['samples']}]"
            cell["infer_cfg"]["inferencer"] = _make_inferencer(task, chat, generation_length)
            if task == "humaneval" and not chat:
                # The function's head alone, as lm-evaluation-harness gives it.
                cell["infer_cfg"]["prompt_template"]["template"] = "{prompt}"
            cells.append(cell)
    return cells


def _read_stock(name: str) -> list[Config]:
    """Read the data set configs of one of OpenCompass's files."""
    import opencompass
    from mmengine.config import Config as HostConfig

    path = Path(opencompass.__file__).parent / "configs/datasets" / f"{name}.py"
    config = HostConfig.fromfile(str(path), format_python_code=False).to_dict()
    [cells] = [plain_config(config[key]) for key in config if key.endswith("_datasets")]
    return list(cells)


def _make_inferencer(task: str, chat: bool, generation_length: int | None) -> Config:
    if not chat and task == "winogrande":
        # Scores the rest of the sentence, which all options share.
        return {"type": f"{_INFERENCERS}.LLInferencer"}
    if not chat and task in LIKELIHOOD_TASKS:
        return {
            "type": "opencompass_llada.benchmarks.short.inferencer.OptionScoringInferencer",
            "per": LIKELIHOOD_PER.get(task, "option"),
        }
    inferencer: Config = {"type": f"{_INFERENCERS}.GenInferencer"}
    if generation_length:
        inferencer["max_out_len"] = generation_length
    if not chat:
        inferencer["stopping_criteria"] = list(BASE_STOPS[task])
    return inferencer


def _fill_defaults(values: Settings, trained_length: int, asked: Sequence[str] = ALL_TASKS) -> None:
    values.default("data", "opencompass")
    embedded = values["data"] == "embedded"
    at_hand = [task for task in asked if task in EMBEDDED_TASKS or not embedded]
    values.default("tasks", at_hand, "default: all that the data has")
    reject_unknown("task of the data", values["tasks"], at_hand)


def _fill_run(values: Settings, trained_length: int) -> None:
    _fill_defaults(values, trained_length)
    values.default("estimator", "bound")
    if values["estimator"] == "confidence":
        if values["draws"] is not None:
            raise ValueError(
                f"draws={values['draws']} ({values.sources['draws']}) has no effect with "
                "estimator=confidence, which draws nothing; leave one of them out."
            )
        return
    if values["data"] == "embedded":
        values.default("draws", EMBEDDED_DRAWS, "default on embedded data, for speed")
    values.default("draws", LIKELIHOOD_DRAWS, "default: LLaDA's")


def _make_groups(values: Settings, table: ModelTable, make_models: MakeModels) -> list[Combination]:
    """Pair each model with the tasks at which it generates alike."""
    groups = []
    for name in values["models"]:
        facts = table[name]
        for generation, tasks in _group_tasks(values, facts):
            cells = _list_cells(values, tasks, facts.chat, None)
            for config in make_models([name], chat=facts.chat):
                _set_up(config, values, facts, generation)
                groups.append({"models": [config], "datasets": cells})
    return groups


def _group_tasks(values: Settings, facts: KnownModel) -> list[tuple[Generation, list[str]]]:
    """Group a model's tasks by how it generates at them; at choices by likelihood it does not."""
    asked = [task for task in values["tasks"] if task in CHAT_TASKS or not facts.chat]
    if not asked:
        raise ValueError(
            f"tasks={values['tasks']}: {facts.title!r} is a chat model, which is asked "
            f"{', '.join(CHAT_TASKS)} only; name one of these, or a base model."
        )
    is_small = values["data"] == "embedded" and facts.dtype is not None
    usual = EMBEDDED_SHORT if is_small else BASE_SHORT
    groups: dict[tuple[Any, ...], list[str]] = {}
    for task in asked:
        groups.setdefault(tuple(facts.short.get(task, usual).items()), []).append(task)
    return [(dict(generation), tasks) for generation, tasks in groups.items()]


def _set_up(config: Config, values: Settings, facts: KnownModel, generation: Generation) -> None:
    """Give a model's config the generation settings of some tasks."""
    length, given = values["generation_length"], dict(generation)
    if length:
        blocks = given["block_length"] != given["max_out_len"]
        given["num_steps"] = given["max_out_len"] = length
        given["block_length"] = min(given["block_length"], length) if blocks else length
    own = facts.generation["niah"]
    config["max_out_len"] = given.pop("max_out_len")
    if not facts.chat:
        by_confidence = values["estimator"] == "confidence"
        config["likelihood"] = (
            {"estimator": "confidence"} if by_confidence else {"num_draws": values["draws"]}
        )
    if "block_length" not in own:
        del given["block_length"]
    if length and facts.block_length is not None:  # one step a token of whole blocks
        given["num_steps"] = None
    if "num_steps" in own:
        config["sampler"] = {**config["sampler"], **given}


def _check_data(values: Settings, cells: Sequence[Config]) -> None:
    for cell in cells if values["data"] != "embedded" else ():
        data_checks.check_data_set(cell)


def _make_summarizer(values: Settings, run: Run) -> Config:
    """Return OpenCompass's table of models side by side, with MMLU's mean over subjects."""
    groups: dict[str, list[str]] = {}
    lines: dict[str, None] = {}
    for cell in run.datasets:
        line = abbr = cell["abbr"]
        if abbr.startswith("mmlu_"):
            line = "mmlu_chat" if abbr.endswith("_chat") else "mmlu"
            groups.setdefault(line, []).append(abbr)
        lines[line] = None
    return planning.summarize_with(
        "SideBySideSummarizer",
        dataset_abbrs=list(lines),
        summary_groups=[{"name": name, "subsets": subsets} for name, subsets in groups.items()],
        models=planning.unique(run.described_models),
    )


_CELL_SETTINGS = {
    "tasks": texts("names, separated by commas; default all that the data has"),
    "data": text("embedded, opencompass (where it looks), or a folder laid out as its data/"),
    "samples": number("samples a data set; default all"),
}
PLAN = planning.Plan(
    headline="Short context: {models} models, {datasets} data sets",
    no_readers="its prompts fit the window of every model",
    settings={
        **_CELL_SETTINGS,
        "generation_length": number(
            "tokens generated, in as many steps, instead of the published numbers"
        ),
        "draws": number("masks drawn for a choice, instead of the published numbers"),
        "estimator": text(
            "how masked diffusion models score a choice: bound (default) or confidence",
            *("bound", "confidence"),
        ),
    },
    demo={"models": ["tiny_llada"], "scaling": ["none"], "data": "embedded"},
    fill_defaults=_fill_run,
    make_groups=_make_groups,
    check_data=_check_data,
    make_summarizer=_make_summarizer,
    always_combined=True,
)
DATA_SETS = planning.DataSets(
    settings={
        **_CELL_SETTINGS,
        "prompt": text("base or chat, for models with a chat template", "base", "chat"),
        "generation_length": number("tokens generated"),
    },
    list_cells=_list_by_name,
)
