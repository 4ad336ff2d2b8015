"""Plans perplexity runs: one data set for each point of a curve over context length.

`abbr` is ``ppl_ESTIMATOR_TARGET_TEXT_lengthN``. It only names files: what reads results takes
length and target from the config.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from opencompass_llada.benchmarks.cells import PROMPT_TEMPLATE, ZERO_RETRIEVER, Config
from opencompass_llada.benchmarks.data_checks import options_of
from opencompass_llada.options import build
from opencompass_llada.runs import planning
from opencompass_llada.runs.model_table import KNOWN_MODELS, KnownModel
from opencompass_llada.runs.settings import Settings, number, text, token_lengths

#: Characters a token that a text is expected to have at most; English has 3 (a vocabulary of 2,000)
#: to 5 (one of 100,000).
MOST_CHARACTERS_A_TOKEN = 6
_PACKAGE = "opencompass_llada.benchmarks.perplexity"


def _list_by_name(values: Settings) -> list[Config]:
    """List the data sets of a curve, by default at tiny-llada's lengths."""
    facts = KNOWN_MODELS["tiny_llada"]
    _fill_defaults(values, facts.trained_length)
    return _list_cells(values.replaced(**_own_settings(values, facts)))


def _list_cells(values: Settings) -> list[Config]:
    """List the data sets of a curve, one a length.

    ``longllada`` scores all text but the first chunk in chunks of 64 tokens, as LongLLaDA's script
    does. Autoregressive models are scored exactly with either estimator.
    """
    estimator, target, data = values["estimator"], values["target"], values["data"]
    likelihood = {"estimator": estimator, "num_draws": values["draws"]}
    # A mistake in a setting is found before this takes seconds to import.
    from opencompass_llada.benchmarks.perplexity.inferencer import parse_likelihood_options

    chunk_length = parse_likelihood_options(likelihood, 1).chunk_length
    cells: list[Config] = []
    previous = 0
    for length in sorted(values["lengths"]):
        window: Config = {
            "length": length,
            "windows_per_text": values["windows"],
            "target": "whole",
        }
        if estimator == "longllada":
            if length % chunk_length:
                raise ValueError(
                    f"length={length} must be a multiple of the {chunk_length} tokens of a chunk "
                    f"with estimator='longllada'; use {-(-length // chunk_length) * chunk_length}"
                )
            # The first chunk has no text before it, and LongLLaDA's script leaves it out.
            window.update(target="segment", previous_length=previous or chunk_length)
        elif target != "whole":
            window.update(target="last", target_tokens=target)
        cells.append(_make_cell(values, data, window, likelihood))
        if window["target"] == "segment":
            cells[-1]["previous_length"] = previous
        previous = length
    return cells


def _make_cell(values: Settings, data: str, window: Config, likelihood: Config) -> Config:
    name = data.replace("hub:", "").rstrip("/").split("/")[-1].split(".")[0]
    is_last = window["target"] == "last"
    label = window["target"] + (str(window["target_tokens"]) if is_last else "")
    # Texts do not depend on the lengths, but that generated ones are as long as a cell needs.
    from opencompass_llada.benchmarks.perplexity.samples import WindowOptions

    tokens = build(WindowOptions, window, "window").needed_tokens
    needed = MOST_CHARACTERS_A_TOKEN * tokens if data == "generated" else 1
    return {
        "abbr": f"ppl_{likelihood['estimator']}_{label}_{name}_length{window['length']}",
        "type": f"{_PACKAGE}.samples.PerplexityDataset",
        "benchmark": "perplexity",
        "task": likelihood["estimator"],
        "length": window["length"],
        "target": window["target"],
        "path": data,
        "num_texts": values["texts"],
        "min_characters": values["min_characters"] or needed,
        "extended_at": "start" if is_last else "end",
        "text_field": values["text_field"],
        "hub_config": values["hub_config"],
        "split": values["split"],
        "reader_cfg": {"input_columns": ["text"], "output_column": "name"},
        "infer_cfg": {
            # OpenCompass asks for a template; texts are scored as they are.
            "prompt_template": {"type": PROMPT_TEMPLATE, "template": "{text}"},
            "retriever": {"type": ZERO_RETRIEVER},
            "inferencer": {
                "type": f"{_PACKAGE}.inferencer.PerplexityInferencer",
                "window": window,
                "likelihood": likelihood,
            },
        },
        "eval_cfg": {"evaluator": {"type": f"{_PACKAGE}.inferencer.PerplexityEvaluator"}},
    }


def _fill_defaults(values: Settings, trained_length: int) -> None:
    values.defaults(
        data="generated", estimator="bound", target="whole", windows=1, text_field="text"
    )
    values.default("split", "test")
    generated = values["data"] == "generated"
    values.default("texts", 2 if generated else 1, "default: 2 generated texts, else 1")
    value, source = values["target"], values.sources["target"]
    if value != "whole" and not str(value).isdigit():
        raise ValueError(f"target={value!r} ({source}) must be a number of tokens, or 'whole'.")
    values.values["target"] = value if value == "whole" else int(value)
    if not generated and not values["data"].startswith(("hub:", "asset:")):
        # The full path means the same in every folder.
        values.values["data"] = os.path.abspath(os.path.expanduser(values["data"]))
    values.default("lengths", None, "default: 1/2, 1, 2, 4 and 8 times the trained length")


def _own_settings(values: Settings, facts: KnownModel) -> dict[str, Any]:
    multiples = [facts.trained_length * factor // 2 for factor in (1, 2, 4, 8, 16)]
    return {"lengths": tuple(values["lengths"] or multiples)}


def _check_data(values: Settings, cells: Sequence[Config]) -> None:
    """Read the longest cell's texts."""
    from opencompass_llada.benchmarks.perplexity.samples import (
        PerplexityDataset,
        WindowOptions,
        read_texts,
    )

    window = build(WindowOptions, cells[-1]["infer_cfg"]["inferencer"]["window"], "window")
    for row in read_texts(PerplexityDataset.check_options(**options_of(cells[-1]))):
        window.check_text(len(row["text"].encode()), "bytes")


_CELL_SETTINGS = {
    "lengths": token_lengths(
        "context lengths in the model's tokens; default 1/2 to 8 times the trained length"
    ),
    "data": text("generated, a .txt or .jsonl file, a folder of .txt files, or hub:NAME"),
    "text_field": text("field of a jsonl or hub row; default text"),
    "hub_config": text("configuration of a hub data set"),
    "split": text("split of a hub data set; default test"),
    "estimator": text("bound or longllada", "bound", "longllada"),
    "target": text(
        "for the bound: whole (default), or how many last tokens are scored at every length"
    ),
    "draws": number("masks drawn a target (default 16) or, for longllada, a chunk (8)"),
    "texts": number("texts taken; default 2 generated ones, else 1"),
    "windows": number("windows taken of each text; default 1"),
    "min_characters": number(
        "shorter texts of a jsonl file or hub data set are passed over; default 1"
    ),
}
PLAN = planning.Plan(
    headline="Perplexity: {models} models, {results} points (model x length)",
    settings=_CELL_SETTINGS,
    no_readers="it asks no question, and its cells of shorter contexts are the last windows",
    demo={
        "models": ["tiny_llada"],
        "scaling": ["none", "ntk", "diffusion_ntk"],
        "data": "generated",
        "estimator": "bound",
        "draws": 12,
    },
    fill_defaults=_fill_defaults,
    make_groups=planning.pair_by_settings(_list_cells, _own_settings),
    check_data=_check_data,
    make_summarizer=planning.summarize_models("PerplexitySummarizer"),
    dump_details=False,
)
DATA_SETS = planning.DataSets(settings=_CELL_SETTINGS, list_cells=_list_by_name)
