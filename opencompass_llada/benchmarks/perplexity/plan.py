"""Plans perplexity runs: one data set for each point of a curve over context length.

`abbr` is ``ppl_ESTIMATOR_TARGET_TEXT_lengthN``. It only names files: what reads results takes
length and target from the config.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from opencompass_llada.benchmarks.cells import PROMPT_TEMPLATE, Config
from opencompass_llada.benchmarks.perplexity import samples
from opencompass_llada.benchmarks.perplexity.inferencer import parse_likelihood_options
from opencompass_llada.benchmarks.perplexity.samples import parse_window_options
from opencompass_llada.runs.models import ModelTable
from opencompass_llada.runs.planning import (
    Combination,
    DataSets,
    MakeModels,
    Plan,
    Run,
    summarize_with,
)
from opencompass_llada.runs.settings import Settings, number, numbers, text

#: Characters a token that a text is expected to have at most; English has 3 (a vocabulary of 2,000)
#: to 5 (one of 100,000).
MOST_CHARACTERS_A_TOKEN = 6
#: For tiny-llada, from half to eight times its trained length of 512 tokens.
TINY_LENGTHS = [256, 512, 1024, 2048, 4096]
_PACKAGE = "opencompass_llada.benchmarks.perplexity"
HOST_KEYS = ("abbr", "type", "reader_cfg", "infer_cfg", "eval_cfg")


def ppl_cells(
    lengths: Iterable[int],
    data: str = "generated",
    estimator: str = "bound",
    target: str | int = "whole",
    num_draws: int | None = None,
    num_texts: int = 2,
    windows_per_text: int = 1,
    min_characters: int | None = None,
    text_field: str = "text",
    hub_config: str | None = None,
    split: str = "test",
) -> list[Config]:
    """List the data set configs of a curve.

    Args:
        lengths: Context lengths in the model's own tokens.
        data: ``generated``, a .txt file, a folder of them, a .jsonl file, or ``hub:NAME``.
        estimator: ``bound`` or ``longllada``; autoregressive models are scored exactly either way.
        target: For ``bound``, ``whole`` for the whole text up to each length, or how many last
            tokens of a text are scored at every length, given a growing prefix. ``longllada``
            scores all text but the first chunk in chunks of 64 tokens, as LongLLaDA's script does.
        num_draws: Masks drawn a target (16) or a chunk (8).
        num_texts: Texts taken.
        windows_per_text: Windows taken of each.
        min_characters: Shorter texts are passed over. By default none are, so that the texts do
            not depend on the lengths; generated ones are made as long as a cell needs.
        text_field: Field of a jsonl or hub row.
        hub_config: Configuration of a hub data set.
        split: Split of a hub data set.

    Raises:
        ValueError: For options that do not fit.
    """
    likelihood = {"estimator": estimator, "num_draws": num_draws}
    chunk_length = parse_likelihood_options(likelihood, 1).chunk_length
    name = data.replace("hub:", "").rstrip("/").split("/")[-1].split(".")[0]
    cells: list[Config] = []
    previous = 0
    for length in sorted(lengths):
        window: Config = {
            "length": length,
            "windows_per_text": windows_per_text,
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
        options = parse_window_options(window)
        label = window["target"] + (str(target) if window["target"] == "last" else "")
        needed = MOST_CHARACTERS_A_TOKEN * options.needed_tokens if data == "generated" else 1
        cell: Config = {
            "abbr": f"ppl_{estimator}_{label}_{name}_length{length}",
            "type": f"{_PACKAGE}.samples.PerplexityDataset",
            "benchmark": "perplexity",
            "task": estimator,
            "length": length,
            "target": window["target"],
            "path": data,
            "num_texts": num_texts,
            "min_characters": min_characters or needed,
            "extended_at": "start" if window["target"] == "last" else "end",
            "text_field": text_field,
            "hub_config": hub_config,
            "split": split,
            "reader_cfg": {"input_columns": ["text"], "output_column": "name"},
            "infer_cfg": {
                # OpenCompass asks for a template; texts are scored as they are.
                "prompt_template": {"type": PROMPT_TEMPLATE, "template": "{text}"},
                "retriever": {"type": "opencompass.openicl.icl_retriever.ZeroRetriever"},
                "inferencer": {
                    "type": f"{_PACKAGE}.inferencer.PerplexityInferencer",
                    "window": window,
                    "likelihood": likelihood,
                },
            },
            "eval_cfg": {
                "evaluator": {"type": f"{_PACKAGE}.scoring.PerplexityEvaluator"},
            },
        }
        if window["target"] == "segment":
            cell["previous_length"] = previous
        previous = length
        cells.append(cell)
    return cells


def _fill_common(values: Settings) -> None:
    generated = values["data"] == "generated"
    values.default("target", "whole")
    values.default("texts", 2 if generated else 1, "default: 2 generated texts, else 1")
    values.default("windows", 1)
    values.default("text_field", "text")
    values.default("split", "test")
    value, source = values["target"], values.sources["target"]
    if value != "whole" and not str(value).isdigit():
        raise ValueError(f"target={value!r} ({source}) must be a number of tokens, or 'whole'.")
    values.values["target"] = value if value == "whole" else int(value)
    if not generated and not values["data"].startswith(("hub:", "asset:")):
        # The full path means the same in every folder.
        values.values["data"] = os.path.abspath(os.path.expanduser(values["data"]))


def _fill_defaults(values: Settings, table: ModelTable) -> None:
    _fill_common(values)
    if values["lengths"] is None:
        values.sources["lengths"] = "default: 1/2, 1, 2, 4 and 8 times the trained length"


def _cells_of(values: Settings, lengths: Iterable[int]) -> list[Config]:
    return ppl_cells(
        lengths,
        data=values["data"],
        estimator=values["estimator"],
        target=values["target"],
        num_draws=values["draws"],
        num_texts=values["texts"],
        windows_per_text=values["windows"],
        min_characters=values["min_characters"],
        text_field=values["text_field"],
        hub_config=values["hub_config"],
        split=values["split"],
    )


def _make_groups(values: Settings, table: ModelTable, make_models: MakeModels) -> list[Combination]:
    """Pair each set of lengths with the models that share it."""
    names_by_lengths: dict[tuple[int, ...], list[str]] = {}
    for name in values["models"]:
        trained = table[name].trained_length
        own = (trained // 2, *(factor * trained for factor in (1, 2, 4, 8)))
        names_by_lengths.setdefault(tuple(values["lengths"] or own), []).append(name)
    return [
        Combination(models=make_models(names), datasets=_cells_of(values, lengths))
        for lengths, names in names_by_lengths.items()
    ]


def _check_data(values: Settings, cells: Sequence[Config]) -> None:
    """Read the longest cell's texts."""
    options = {name: value for name, value in cells[-1].items() if name not in HOST_KEYS}
    window = parse_window_options(cells[-1]["infer_cfg"]["inferencer"]["window"])
    for row in samples.read_texts(samples.parse_text_options(options)):
        window.check_text(len(row["text"].encode()), "bytes")


def _make_summarizer(values: Settings, run: Run) -> Config:
    return summarize_with("PerplexitySummarizer", models=run.described_models)


_CELL_SETTINGS = {
    "lengths": numbers(
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
PLAN = Plan(
    headline="Perplexity: {models} models, {results} points (model x length)",
    settings={
        **_CELL_SETTINGS,
        "batch_size": number("masks of one text at a time; default the model's"),
    },
    demo={
        "models": ["tiny_llada"],
        "scaling": ["none", "ntk", "diffusion_ntk"],
        "data": "generated",
        "estimator": "bound",
        "draws": 12,
    },
    fill_defaults=_fill_defaults,
    make_groups=_make_groups,
    check_data=_check_data,
    make_summarizer=_make_summarizer,
    has_small_cells=True,
    dump_details=False,
)


def _list_cells(values: Settings) -> list[Config]:
    values.default("data", "generated")
    values.default("estimator", "bound")
    _fill_common(values)
    return _cells_of(values, values["lengths"] or TINY_LENGTHS)


DATA_SETS = DataSets(settings=_CELL_SETTINGS, list_cells=_list_cells)
