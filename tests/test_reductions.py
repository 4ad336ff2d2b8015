"""What passes may give up, by variables: read, put into the configs of fitting models, refused."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from opencompass_llada.benchmarks.published.run import plan_published_suites
from opencompass_llada.runs.evaluation import plan_leaderboard
from opencompass_llada.runs.every_data_set import plan_data_sets
from opencompass_llada.runs.planning import list_models, plan_run
from opencompass_llada.runs.reductions import parse

SMALL = {"lengths": [256], "depths": [0], "repeats": 1, "scaling": ["none"], "data": "embedded"}


@pytest.mark.parametrize(
    ("name", "written", "options"),
    [
        ("cache", "prompt", {"type": "prompt"}),
        ("cache", "dual:dtype=float8:refresh=8", {"type": "dual", "dtype": "float8", "refresh": 8}),
        ("acceptance", "threshold:value=0.9", {"type": "threshold", "value": 0.9}),
        ("prefill", "sparse:keep=0.3", {"type": "sparse", "keep": 0.3}),
        ("precision", "float8", "float8"),
    ],
)
def test_settings_are_a_type_and_its_options(name, written, options):
    assert parse(name, written) == options


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("cache", "promt", "Did you mean 'prompt'"),
        ("cache", "prompt:dtpe=float8", "Did you mean 'dtype'"),
        ("cache", "prompt:float8", "'float8' must be option=value"),
        ("prefill", "sparse:keep=2", "keep=2 must be"),
        ("prefill", "sparse:keep=0.3:keep=0.5", "keep is there twice"),
        ("prefill", "exact:type=sparse", "type is there twice"),
        ("acceptance", "treshold", "Did you mean 'threshold'"),
    ],
)
def test_wrong_words_name_the_right_ones(name, written, message):
    with pytest.raises(ValueError, match=message):
        parse(name, written)


def test_models_get_what_they_have_a_use_for(monkeypatch, caplog):
    for name, value in (("CACHE", "prompt"), ("PRECISION", "float8"), ("PREFILL", "float8")):
        monkeypatch.setenv(f"LLADA_{name}", value)
    models = ["tiny_llada", "tiny_block", "tiny_ar"]
    run = plan_run("niah", {**SMALL, "models": models}, num_gpus=0, announce=False)
    found = {model["abbr"]: model for model in run.models}
    assert found["tiny-llada"]["sampler"]["cache"] == {"type": "prompt"}
    assert found["tiny-llada"]["precision"] == found["tiny-block"]["precision"] == "float8"
    assert found["tiny-llada"]["prefill"] == {"type": "float8"}
    assert "cache" not in found["tiny-block"].get("sampler", {})
    assert "prefill" not in found["tiny-block"]
    assert not {"precision", "prefill"} & found["tiny-ar"].keys()
    assert "tiny-ar runs without precision: it is autoregressive" in caplog.text
    assert "tiny-block runs without cache: it is block-causal" in caplog.text
    assert Config({"models": run.models}).pretty_text


def test_what_fits_no_model_is_refused(monkeypatch):
    monkeypatch.setenv("LLADA_PREFILL", "float8")
    with pytest.raises(ValueError, match=r"prefill fits none .* leave LLADA_PREFILL out"):
        plan_run("niah", {**SMALL, "models": ["tiny_block"]}, num_gpus=0, announce=False)
    with pytest.raises(ValueError, match="prefill fits none"):
        list_models("tiny_ar")


def test_models_by_name_take_them_too(monkeypatch):
    monkeypatch.setenv("LLADA_CACHE", "dual")
    (config,) = list_models("tiny_llada")
    assert config["sampler"]["cache"] == {"type": "dual"}
    monkeypatch.delenv("LLADA_CACHE")
    (config,) = list_models("tiny_llada")
    assert "cache" not in config["sampler"]


@pytest.mark.parametrize(
    ("name", "written"), [("CACHE", "prompt"), ("ACCEPTANCE", "threshold"), ("SAMPLER", "fast")]
)
def test_how_answers_are_made_is_refused_where_none_are(monkeypatch, name, written):
    monkeypatch.setenv(f"LLADA_{name}", written)
    settings = {"models": ["tiny_llada"], "scaling": ["none"], "lengths": [256]}
    with pytest.raises(ValueError, match=f"LLADA_{name}=.*has no effect.*leave it out"):
        plan_run("perplexity", settings, num_gpus=0, announce=False)


@pytest.mark.parametrize("datasets", [["ppl_generated"], ["ppl_generated", "niah_embedded"]])
def test_data_sets_that_score_alone_refuse_it_too(monkeypatch, datasets):
    monkeypatch.setenv("LLADA_CACHE", "prompt")
    settings = {"models": ["tiny_llada"], "datasets": datasets, "samples": 1,
                "generation_length": 16, "prompt_limit": 256}  # fmt: skip
    if len(datasets) > 1:
        assert plan_data_sets(settings).models[0]["sampler"]["cache"] == {"type": "prompt"}
        return
    with pytest.raises(ValueError, match="LLADA_CACHE=.*has no effect"):
        plan_data_sets(settings)


def test_prefill_is_refused_where_texts_are_scored(monkeypatch):
    monkeypatch.setenv("LLADA_PREFILL", "float8")
    settings = {"models": ["tiny_llada"], "scaling": ["none"], "lengths": [256]}
    with pytest.raises(ValueError, match=r"LLADA_PREFILL=.*has no effect.*leave it out"):
        plan_run("perplexity", settings, num_gpus=0, announce=False)


@pytest.mark.parametrize(
    "given",
    [
        {"CACHE": "prompt", "PREFILL": "float8", "PRECISION": "float8"},
        {"SAMPLER": "fast", "PRECISION": "float8"},
    ],
)
def test_a_benchmark_that_scores_runs_without_it_beside_one_that_answers(
    monkeypatch, caplog, given
):
    for name, value in given.items():
        monkeypatch.setenv(f"LLADA_{name}", value)
    settings = {"models": ["tiny_llada"], "scaling": ["none"], "lengths": [256]}
    run = plan_leaderboard({**settings, "benchmarks": ["niah", "ppl"], "data": "embedded"}, {})
    answering, scoring = (group["models"][0] for group in run.combinations)
    assert answering["sampler"]["cache"]["type"] == "prompt"
    assert ("prefill" in answering) == ("PREFILL" in given)
    assert answering["precision"] == scoring["precision"] == "float8"
    assert "prefill" not in scoring
    assert "cache" not in scoring.get("sampler", {})
    assert f"ppl runs without {', '.join(n.lower() for n in given if n != 'PRECISION')}" in (
        caplog.text
    )
    with pytest.raises(ValueError, match=r"has no effect.*leave it out"):
        plan_leaderboard({**settings, "benchmarks": ["ppl"]}, {})


def test_published_suites_take_them_too(monkeypatch):
    monkeypatch.setenv("LLADA_SAMPLER", "fast")
    monkeypatch.setenv("LLADA_PREFILL", "float8")
    settings = {"models": ["tiny_llada"], "scaling": ["none"], "data": "embedded"}
    run = plan_published_suites({**settings, "suites": ["babilong"]})
    assert {model["prefill"]["type"] for model in run.models} == {"float8"}
    assert {model["sampler"]["early_stop"] for model in run.models} == {True}
