"""Plans needle-in-a-haystack runs: one data set a cell, which is a length and a depth.

The prompt of a base model ends in the answer prefix; there is no answer turn after it. `abbr`,
``niah_DATA_LANGUAGE_lengthN_depthNNN_by-TOKENIZER``, with ``_independent`` behind the language for
such draws and ``_chat`` for the chat form, only names files: what reads results takes length, depth
and the rest from the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencompass_llada.benchmarks import cells
from opencompass_llada.benchmarks.cells import Config
from opencompass_llada.benchmarks.counting import name_tokenizer
from opencompass_llada.benchmarks.needle.facts import GENERATED
from opencompass_llada.benchmarks.needle.prompts import NUM_WORDINGS
from opencompass_llada.benchmarks.needle.samples import resolve_data_directory
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs import planning
from opencompass_llada.runs.model_table import KnownModel
from opencompass_llada.runs.settings import Settings, number, numbers, text, token_lengths

#: LongLLaDA (arXiv 2506.14429, section 4.1): lengths counted with GPT-4's tokenizer, 32 new tokens.
LONGLLADA_LENGTHS = (2000, 4000, 8000, 16000, 24000, 32000)
#: UltraLLaDA's repository (needlebench_single.py): 8K to 128K in steps of 8,192.
ULTRALLADA_LENGTHS = tuple(range(8192, 131073, 8192))
DEPTHS_BY_TEN = tuple(range(0, 101, 10))
DATA_PATHS = {"needlebench": "opencompass/needlebench", "embedded": "asset:needlebench"}
#: For each data, each language that it has: haystack files and NeedleBench's length_buffer, where
#: there is one.
HAYSTACKS: dict[str, dict[str, Config]] = {
    "needlebench": {
        "en": {"language": "English", "file_list": ["en_un_asr.jsonl"], "length_buffer": 600},
        "zh": {"language": "Chinese", "file_list": ["zh_all.jsonl"], "length_buffer": 200},
    },
    "embedded": {"en": {"language": "English", "file_list": ["synthetic_en.jsonl"]}},
}
CELL_SETTINGS = {
    "lengths": token_lengths(
        "tokens, separated by commas; default 1/2, 1, 2 and 4 times the trained length"
    ),
    "depths": numbers("percent, separated by commas", lowest=0, fractions=True),
    "repeats": number("samples a cell"),
    "data": text("embedded, needlebench, or the folder of NeedleBench files"),
    "language": text("en or zh", "en", "zh"),
    "tokenizer": text("what counts lengths: model (its own), gpt-4, or a checkpoint's path"),
    "needle_draws": text(
        "independent (each sample its own needle, texts and wording) or published (NeedleBench's: "
        "the same in every cell); default independent for embedded data",
        *("independent", "published"),
    ),
    "needle_seed": number("chooses among independent draws; default 0", lowest=0),
    "prompt": text("base (ends in the answer prefix) or chat", "base", "chat"),
    "generation_length": number("tokens generated for a sample; default the model's"),
}


def _list_by_name(values: Settings) -> list[Config]:
    facts = planning.default_by_name(values)
    if values["data"] != "embedded":
        values.default("lengths", list(LONGLLADA_LENGTHS))
    _fill_defaults(values, facts.trained_length)
    return _list_cells(values.replaced(**_own_settings(values, facts)))


def describe_haystack(
    values: Settings, haystacks: Mapping[str, Mapping[str, Config]], template: Config
) -> tuple[str, str, Config]:
    """Return beginning and ending of the names of a run's cells, and the keywords that all share.

    The template has no BOT turn: it would put a line break after the answer prefix.
    """
    data = values["data"] if values["data"] in DATA_PATHS else "needlebench"
    language, chat, tokenizer = values["language"], values["prompt"] == "chat", values["tokenizer"]
    reject_unknown(f"language of {data} data", [language], haystacks[data])
    common = {
        "path": DATA_PATHS.get(values["data"], values["data"]),
        "tokenizer": tokenizer,
        "num_repeats_per_file": values["repeats"],
        "guide": chat,
        "reader_cfg": cells.read_with("answer"),
        "infer_cfg": cells.generate_with(template, values["generation_length"]),
        "length_buffer": "fit",
        **haystacks[data][language],
        "needle_file_name": "needles.jsonl",
    }
    if tokenizer != "gpt-4":
        common["length_buffer"] = "fit"
    if common["length_buffer"] == "fit":
        common["generation_reserve"] = values["generation_length"]
    name, seed = f"{data}_{language}", values["needle_seed"]
    if seed:
        common["draw_seed"] = seed
    if values["needle_draws"] == "independent":
        common["draws"] = "independent"
        name += f"_independent{seed or ''}"
        if data == "embedded":
            common["needle_file_name"] = GENERATED
    ending = f"by-{name_tokenizer(tokenizer)}" + ("_chat" if chat else "")
    return name, ending, common


def _list_cells(values: Settings) -> list[Config]:
    """List a grid, depth by depth, so that any stretch mixes lengths."""
    turns = {"round": [{"role": "HUMAN", "prompt": "{prompt}"}]}
    template = {"type": cells.PROMPT_TEMPLATE, "template": turns}
    name, ending, common = describe_haystack(values, HAYSTACKS, template)
    return [
        {
            "abbr": f"niah_{name}_length{length}_depth{f'{depth:g}'.zfill(3)}_{ending}",
            "type": "opencompass_llada.benchmarks.needle.dataset.NeedleBenchSingleDataset",
            "length": length,
            "depth": depth,
            "eval_cfg": cells.score_with("needle.dataset.NeedleBenchEvaluator"),
            **common,
        }
        for depth in values["depths"]
        for length in values["lengths"]
    ]


def _fill_defaults(values: Settings, trained_length: int) -> None:
    """Take LongLLaDA's grid, or one around the trained length; lengths may stay the models' own."""
    values.defaults(data="needlebench", language="en")
    embedded = values["data"] == "embedded"
    values.default("needle_draws", "independent" if embedded else "published")
    if embedded:
        values.default("depths", [0, 25, 50, 75, 100], "default: every 25 %")
        values.default("repeats", 2, "default: for embedded data")
    else:
        values.default("depths", list(DEPTHS_BY_TEN), "default: every 10 %")
        values.default("repeats", 10, "default: LongLLaDA's")
        if trained_length >= LONGLLADA_LENGTHS[0]:
            values.default("tokenizer", "gpt-4", "default: as NeedleBench counts")
    reason = "default: embedded data or a trained length below NeedleBench's shortest"
    values.default("tokenizer", "model", reason)
    multiples = "default: 1/2, 1, 2 and 4 times the"
    if values["tokenizer"] == "gpt-4":
        values.default("lengths", list(LONGLLADA_LENGTHS), "default: LongLLaDA's")
    elif embedded:  # one set for all, so that they stand side by side
        lengths = list(_multiples(trained_length))
        values.default("lengths", lengths, f"{multiples} shortest trained length")
    values.default("lengths", None, f"{multiples} trained length of each model")


def _multiples(trained_length: int) -> tuple[int, ...]:
    return (trained_length // 2, trained_length, 2 * trained_length, 4 * trained_length)


def _own_settings(values: Settings, facts: KnownModel) -> dict[str, Any]:
    return {
        "lengths": tuple(values["lengths"] or _multiples(facts.trained_length)),
        "generation_length": values["generation_length"] or facts.generation["niah"]["max_out_len"],
    }


def _model_options(values: Settings) -> dict[str, Any]:
    """Return options of models; their own steps are for answers of their own length."""
    return {
        "num_steps": values["steps"],
        "answer_length": None if values["steps"] else values["generation_length"],
        "chat": values["prompt"] == "chat",
    }


PLAN = planning.Plan(
    headline="Needle in a haystack: {models} models, {results} results (model x length x depth)",
    settings={**CELL_SETTINGS, "steps": number("denoising steps; default the model's")},
    demo={
        "models": ["tiny_llada"],
        "scaling": ["none", "ntk", "diffusion_ntk"],
        "data": "embedded",
        "language": "en",
        "prompt": "base",
    },
    fill_defaults=_fill_defaults,
    make_groups=planning.pair_by_settings(
        _list_cells,
        _own_settings,
        _model_options,
    ),
    find_path=lambda cell: str(resolve_data_directory(cell["path"]).resolve()),
    make_summarizer=planning.summarize_models("NeedleSummarizer"),
    robustness=("wordings", "generation_lengths", "seeds", "decodings"),
    num_wordings=NUM_WORDINGS,
)
DATA_SETS = planning.DataSets(settings=CELL_SETTINGS, list_cells=_list_by_name)
