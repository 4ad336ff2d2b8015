"""Runs are planned with readers that are shown less, and without them as they always were."""

from __future__ import annotations

import json

import pytest

from opencompass_llada.runs.model_table import KNOWN_MODELS
from opencompass_llada.runs.planning import list_data_sets, plan_run
from opencompass_llada.runs.reader_cells import pretrained_length

NIAH = dict(data="embedded", lengths=[512, 1024], depths=[0], repeats=1)
ALL = ["full", "last_window", "no_context"]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", "none")


def groups_of(run):
    """Return what each group runs: models, reader, window and lengths."""
    return [
        (
            [model["abbr"] for model in group["models"]],
            {(cell.get("reader", "full"), cell.get("window")) for cell in group["datasets"]},
            sorted({cell.get("length") for cell in group["datasets"]} - {None}),
        )
        for group in run.combinations or [{"models": run.models, "datasets": run.datasets}]
    ]


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("tiny_llada", 512),
        ("tiny_llada_long", 512),  # its config.json states it beside the 16,384 tokens
        ("llada_8b_base", 4096),
        ("ultrallada", 4096),
        ("sdar_8b_chat", 32768),
    ],
)
def test_the_window_is_what_a_model_was_pretrained_for(name, length):
    assert pretrained_length(KNOWN_MODELS[name]) == length


def test_a_checkpoint_says_itself_what_it_was_extended_from(tmp_path):
    from dataclasses import replace

    fields = {"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 8192}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    facts = replace(KNOWN_MODELS["llada_8b_base"], path=str(tmp_path), trained_length=65536)
    assert pretrained_length(facts) == 8192
    (tmp_path / "config.json").write_text("{}")
    assert pretrained_length(facts) == 65536


def test_a_run_by_other_readers_has_the_same_cells_and_others_beside(monkeypatch):
    models = ["tiny_llada", "tiny_llada_long"]
    before = plan_run("niah", dict(NIAH, models=models), num_gpus=0)
    monkeypatch.setenv("LLADA_READERS", ",".join(ALL))
    after = plan_run("niah", dict(NIAH, models=models), num_gpus=0)
    assert groups_of(before) == [(["tiny-llada", "tiny-llada-long"], {("full", None)}, [512, 1024])]
    assert groups_of(after) == [
        *groups_of(before),
        (["tiny-llada", "tiny-llada-long"], {("no_context", None)}, [512, 1024]),
        # What is no longer than the window is the model's own answer.
        (["tiny-llada", "tiny-llada-long"], {("last_window", 512)}, [1024]),
    ]
    first = after.combinations[0]
    assert json.dumps(first["datasets"]) == json.dumps(before.datasets)
    assert json.dumps(after.models) == json.dumps(before.models)
    names = [cell["abbr"] for cell in after.datasets]
    assert len(names) == len(set(names)) == 2 + 2 + 1
    [shown] = [cell for cell in after.datasets if cell.get("window")]
    assert shown["abbr"] == f"{before.datasets[1]['abbr']}_last_window512"
    assert shown["window_reserve"] == shown["infer_cfg"]["inferencer"]["max_out_len"] == 16


def test_another_window_and_a_question_that_has_no_room(monkeypatch, caplog):
    asked = dict(data="embedded", models=["tiny_llada"], readers=ALL[:2], samples=1)
    run = plan_run("ruler", dict(asked, tasks=["vt"], lengths=[1024], reader_window=700), 0)
    assert groups_of(run)[1:] == [(["tiny-llada"], {("last_window", 700)}, [1024])]
    run = plan_run("ruler", dict(asked, tasks=["vt"], lengths=[1024], reader_window=100), 0)
    assert len(groups_of(run)) == 1
    assert "1 of 1 data sets have no such reader" in caplog.text
    with pytest.raises(ValueError, match="use full,no_context"):
        plan_run("niah", dict(NIAH, models=["tiny_llada"], readers=["no_context"]), 0)


def test_longbench_counts_windows_by_the_models_tokenizer():
    asked = dict(data="embedded", tasks=["trec"], lengths=[1024], models=["tiny_llada", "tiny_ar"])
    run = plan_run("longbench", dict(asked, readers=ALL[:2]), 0)
    [_, (models, reader, _)] = groups_of(run)
    assert (len(models), reader) == (2, {("last_window", 512)}), "of tokenizers with one content"
    assert run.combinations[1]["datasets"][0]["window_tokenizer"] == "asset:tiny-llada"
    short = plan_run("longbench", dict(asked, lengths=[400], readers=ALL[:2]), 0)
    assert len(groups_of(short)) == 1, "prompts are cut to less than the window"


def test_benchmarks_without_readers_say_why(capsys):
    asked = dict(models=["tiny_llada"], lengths=[256], texts=1, readers=ALL)
    run = plan_run("perplexity", asked, 0)
    assert {reader for _, readers, _ in groups_of(run) for reader, _ in readers} == {"full"}
    assert (
        "is not run by last_window and no_context: it asks no question" in capsys.readouterr().err
    )


def test_data_sets_by_name_take_a_window(monkeypatch):
    asked = dict(data="embedded", lengths=[512, 1024], repeats=1)
    assert len(list_data_sets("needlebench_multi", **asked)) == 2
    monkeypatch.setenv("LLADA_READERS", "full,last_window")
    with pytest.raises(ValueError, match="LLADA_READER_WINDOW"):
        list_data_sets("needlebench_multi", **asked)
    monkeypatch.setenv("LLADA_READER_WINDOW", "512")
    cells = list_data_sets("needlebench_multi", **asked)
    assert [cell.get("window") for cell in cells] == [None, None, 512]
    assert cells[2]["length"] == 1024
