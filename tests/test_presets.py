"""Presets of the sampler: one table, read by the wrapper, the variable, commands and reports."""

from __future__ import annotations

import logging
import re

import pytest
from mmengine.config import Config
from tiny_causal import write_llama_checkpoint

from opencompass_llada.cli import main
from opencompass_llada.inference import PassOptions, PrefillOptions
from opencompass_llada.presets import (
    OF_MODEL,
    PRESETS,
    ModelKind,
    as_options,
    fit_preset,
    split_options,
)
from opencompass_llada.report.identity import describe_sampler
from opencompass_llada.runs.evaluation import plan_evaluation
from opencompass_llada.runs.fidelity import apply_setting, parse_setting
from opencompass_llada.runs.launch import _write_presets_out
from opencompass_llada.runs.makers import describe_maker, read_options
from opencompass_llada.runs.model_table import KNOWN_MODELS
from opencompass_llada.runs.planning import list_models, plan_run
from opencompass_llada.runs.provenance import record_model
from opencompass_llada.runs.reductions import write_out
from opencompass_llada.sampling import SamplerConfig
from opencompass_llada.wrapper import LLaDACausalLM

SMALL = {"lengths": [256], "depths": [0], "repeats": 1, "scaling": ["none"], "data": "embedded"}
FAST = {"cache": {"type": "prompt", "dtype": "float8"}, "early_stop": True}
WRAPPER = "opencompass_llada.wrapper.LLaDACausalLM"
ALL_OPTIONS = {
    "cache": {"type": "prompt"},
    "early_stop": True,
    "precision": "float8",
    "prefill": {"type": "float8"},
}
check = LLaDACausalLM.check_arguments


NAMES = tuple(PRESETS)


@pytest.fixture(autouse=True)
def pinned(request, monkeypatch):
    """Let ``fast`` be the same here whatever the package's is, which measurements may change."""
    if "name" not in request.fixturenames:
        monkeypatch.setitem(PRESETS, "fast", FAST)


@pytest.fixture
def wide(monkeypatch, pinned):
    """Let ``fast`` set options of the sampler and of the model."""
    monkeypatch.setitem(PRESETS, "fast", ALL_OPTIONS)


def tiny(**keywords):
    return {"type": WRAPPER, "abbr": "tiny", "path": "asset:tiny-llada", **keywords}


@pytest.mark.parametrize("name", NAMES)
def test_each_holds_options_that_there_are_and_fits_every_network_of_ours(name):
    of_sampler, of_model = split_options(PRESETS[name])
    assert of_sampler or of_model
    config = SamplerConfig(**of_sampler)
    given = dict(of_model.get("prefill") or {})
    passes = PassOptions(precision=of_model.get("precision"), prefill=PrefillOptions(**given))
    exact = (SamplerConfig(), PassOptions())
    assert (config, passes) != exact, "a preset changes something"
    for facts in KNOWN_MODELS.values():
        if not facts.is_autoregressive and facts.takes_scaling and facts.block_length is None:
            SamplerConfig(**{**facts.sampler, **of_sampler})


@pytest.mark.usefixtures("wide")
def test_a_name_stands_for_its_options():
    named = check("asset:tiny-llada", sampler="fast")
    of_sampler, of_model = split_options(ALL_OPTIONS)
    written = check("asset:tiny-llada", sampler=of_sampler, **of_model)
    assert named.settings.resolved == written.settings.resolved
    assert named.settings.resolved.cache.type == "prompt"
    assert named.passes == written.passes
    assert named.passes.given == ["precision", "prefill"]
    assert written.preset is None
    plain = check("asset:tiny-llada")
    assert plain.settings.resolved == check("asset:tiny-llada", sampler={}).settings.resolved
    assert not plain.settings.resolved.cache.enabled, "defaults are exact"


def test_options_that_it_does_not_set_go_with_it():
    given = {"preset": "fast", "num_steps": 8, "block_length": 16}
    settings = check("asset:tiny-llada", sampler=given, max_out_len=16, seed=3).settings
    config = settings.for_length(16)
    assert (config.num_steps, config.block_length, config.seed) == (8, 16, 3)
    assert config.cache.type == FAST["cache"]["type"]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sampler": "fsat"}, r"preset 'fsat'. Did you mean 'fast'\? Valid: fast; or give options"),
        ({"sampler": {"preset": "quick"}}, r"Unknown sampler preset 'quick'"),
        (
            {"sampler": {"preset": 3}},
            "sampler preset=3 must be a text; give a preset's name .fast., or leave",
        ),
        (
            {"sampler": {"preset": None}},
            "sampler preset=None must be a text; give a preset's name .fast., or",
        ),
        (
            {"sampler": {"preset": None, "num_steps": 8}},
            "preset=None must be a text; give a preset's name",
        ),
        (
            {"sampler": {"preset": ["fast"]}},
            r"preset=\['fast'\] must be a text; give a preset's name .fast.",
        ),
        ({"sampler": {"preset": ""}}, "Unknown sampler preset ''. Valid: fast; or give options"),
        ({"sampler": {"preset": "Fast"}}, "preset 'Fast'. Did you mean 'fast'"),
        ({"sampler": {"preset": "FAST"}}, "preset 'FAST'. Did you mean 'fast'"),
        ({"sampler": 3}, "sampler=3 must be a dict of options"),
        ({"sampler": {"prest": "fast"}}, "Did you mean 'preset'"),
        ({"preset": "fast"}, r"sampler=dict\(preset=...\)"),
        (
            {"sampler": {"preset": "fast", "cache": "dual"}},
            "cache is given beside .* 'fast', which",
        ),
        ({"sampler": "fast", "prefill": {"type": "sparse"}}, "prefill is given beside"),
        ({"sampler": "fast", "diffusion_config": {"steps": 4}}, "keep one"),
    ],
)
@pytest.mark.usefixtures("wide")
def test_what_does_not_fit_is_said_before_weights_load(keywords, message):
    with pytest.raises(ValueError, match=message):
        check("asset:tiny-llada", **keywords)


def test_no_sampler_is_the_default_and_no_preset():
    plain, none = (check("asset:tiny-llada", **given) for given in ({}, {"sampler": None}))
    assert none.settings.resolved == plain.settings.resolved
    assert none.preset is None


@pytest.mark.parametrize("wrong", [None, 3])
def test_a_wrong_name_is_told_also_where_presets_are_written_out(wrong):
    with pytest.raises(
        ValueError, match=f"sampler preset={wrong} must be a text; give a preset's name"
    ):
        write_out(tiny(sampler={"preset": wrong}))


@pytest.mark.parametrize("wrong", ["None", "3", "['fast']"])
def test_a_setting_of_fidelity_that_is_no_sampler_is_refused(wrong):
    """It had no effect, and the base stood in the table under its name."""
    with pytest.raises(ValueError, match=rf"sampler={re.escape(wrong)} must be a dict .* a text"):
        parse_setting([f"sampler={wrong}", "num_steps=8"])


def test_an_option_beside_it_is_told_how_the_preset_is_written():
    with pytest.raises(ValueError, match=r"early_stop=True") as error:
        check("asset:tiny-llada", sampler={"preset": "fast", "early_stop": False})
    assert f"cache=dict(type={FAST['cache']['type']!r}" in str(error.value)


@pytest.mark.usefixtures("wide")
def test_other_kinds_run_without_what_does_not_fit_them(tmp_path, caplog):
    blocks = check("asset:tiny-block", sampler="fast")
    assert blocks.settings.resolved.cache.type == "prefix", "its own, which is exact"
    assert blocks.settings.resolved.early_stop
    assert blocks.passes.given == ["precision"]
    llama = str(write_llama_checkpoint(tmp_path / "llama"))
    own = check(llama, sampler="fast")
    assert (own.settings.given, own.passes.given) == ((), [])
    with caplog.at_level(logging.INFO):
        LLaDACausalLM(llama, sampler="fast", tokenizer_only=True)
        assert "fast" not in caplog.text, "said where a model is loaded"
        LLaDACausalLM(llama, sampler="fast")
    said = (
        "sampler='fast' is without effect here; without cache, early_stop, precision, prefill, "
        "since it is autoregressive"
    )
    assert caplog.text.count(said) == 1
    foreign = fit_preset("fast", ModelKind(is_native=False))
    assert not foreign.options


def test_the_log_of_a_block_causal_model_says_once_what_is_left_out(caplog):
    with caplog.at_level(logging.WARNING):
        LLaDACausalLM("asset:tiny-block", sampler="fast")
    lines = [own for own in caplog.messages if "sampler='fast'" in own]
    assert lines == [
        "asset:tiny-block: sampler='fast' is early_stop=True; without cache, since it is "
        "block-causal, and keeps its finished blocks exactly"
    ]


def test_answers_are_those_of_the_options_written_out():
    prompts = ["The code of the red house is 4812.\n" * 20, "One, two, three,"]
    common = {"max_out_len": 16, "dtype": "float32", "device": "cpu"}
    steps = {"block_length": 8, "num_steps": 16}
    named = LLaDACausalLM("asset:tiny-llada", sampler={"preset": "fast", **steps}, **common)
    written = LLaDACausalLM("asset:tiny-llada", sampler={**FAST, **steps}, **common)
    assert named.generate(prompts) == written.generate(prompts)
    assert named.engine.server.open([20], block_length=8, cache_dtype="float8", passes=1)


def test_a_run_by_variable_holds_what_fits_each_model(monkeypatch, caplog):
    monkeypatch.setenv("LLADA_SAMPLER", "fast")
    models = ["tiny_llada", "tiny_block", "tiny_ar"]
    run = plan_run("niah", {**SMALL, "models": models}, num_gpus=0, announce=False)
    found = {model["abbr"]: model for model in run.models}
    assert FAST.items() <= found["tiny-llada"]["sampler"].items()
    assert found["tiny-llada"]["sampler"]["num_steps"], "the model's own options stay"
    assert found["tiny-block"]["sampler"]["early_stop"]
    assert "cache" not in found["tiny-block"]["sampler"]
    assert "sampler" not in found["tiny-ar"]
    assert "fast" not in Config({"models": run.models}).pretty_text, "written out"
    lines = [own for own in caplog.messages if "sampler='fast'" in own]
    assert [line.partition(":")[0] for line in lines] == ["tiny-block", "tiny-ar"]
    (config,) = list_models("tiny_llada")
    assert FAST.items() <= config["sampler"].items()


@pytest.mark.parametrize(
    ("benchmark", "settings"),
    [("short", {"data": "embedded"}), ("longbench", {"data": "embedded"}), ("changing_state", {})],
)
def test_every_benchmarks_own_steps_and_blocks_go_with_it(benchmark, settings, monkeypatch):
    def plan():
        given = {"models": ["tiny_llada"], **settings}
        run = plan_run(benchmark, given, num_gpus=0, announce=False)
        return [model["sampler"] for model in run.models]

    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", "none")
    exact = plan()
    monkeypatch.setenv("LLADA_SAMPLER", "fast")
    assert plan() == [{**own, **FAST} for own in exact]


@pytest.mark.usefixtures("wide")
def test_a_preset_by_variable_may_set_keywords_of_the_model(monkeypatch):
    monkeypatch.setenv("LLADA_SAMPLER", "fast")
    models = ["tiny_llada", "tiny_block", "tiny_ar"]
    run = plan_run("niah", {**SMALL, "models": models}, num_gpus=0, announce=False)
    held = {m["abbr"]: {name for name in OF_MODEL if name in m} for m in run.models}
    assert held == {"tiny-llada": {*OF_MODEL}, "tiny-block": {"precision"}, "tiny-ar": set()}


@pytest.mark.parametrize(
    ("variables", "models", "message"),
    [
        ({"SAMPLER": "fats"}, ["tiny_llada"], r"LLADA_SAMPLER value 'fats'. Did you mean 'fast'"),
        (
            {"SAMPLER": "fast", "CACHE": "dual"},
            ["tiny_llada"],
            "cache is given beside the sampler preset 'fast'",
        ),
        (
            {"SAMPLER": "fast"},
            ["tiny_ar"],
            "sampler='fast' fits none of the models: tiny-ar is autoregressive; leave LLADA_S",
        ),
    ],
)
def test_variables_that_do_not_fit_are_refused(variables, models, message, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(f"LLADA_{name}", value)
    with pytest.raises(ValueError, match=message):
        plan_run("niah", {**SMALL, "models": models}, num_gpus=0, announce=False)


def test_what_it_does_not_set_can_be_asked_for_beside_it(monkeypatch):
    monkeypatch.setenv("LLADA_SAMPLER", "fast")
    monkeypatch.setenv("LLADA_ACCEPTANCE", "threshold:value=0.8")
    (config,) = list_models("tiny_llada")
    assert config["sampler"]["acceptance"] == {"type": "threshold", "value": 0.8}
    assert FAST.items() <= config["sampler"].items()


def test_a_users_config_and_new_config_take_it(tmp_path, capsys):
    run = plan_evaluation(["tiny_llada"], ["niah"], [256], data="embedded", sampler="fast")
    assert FAST.items() <= run.models[0]["sampler"].items()
    words = ["new-config", "--model", "tiny_llada", "--data", "embedded", "--lengths", "256"]
    assert main([*words, "--sampler", "fast"]) == 0
    text = capsys.readouterr().out
    assert '    sampler="fast",\n' in text
    (tmp_path / "my.py").write_text(text)
    cfg = Config.fromfile(str(tmp_path / "my.py"), format_python_code=False)
    assert FAST.items() <= dict(cfg["models"][0]["sampler"]).items()
    assert main([*words, "--sampler", "fsat"]) != 0
    assert "Did you mean 'fast'" in capsys.readouterr().err


def test_a_dumped_config_has_the_options_and_not_the_name(tmp_path):
    models = [
        tiny(sampler={"preset": "fast", "num_steps": 4}),
        {**tiny(sampler="fast", abbr="blocks"), "path": "asset:tiny-block"},
        {**tiny(sampler="fast", abbr="ar"), "path": "asset:tiny-ar"},
        tiny(abbr="exact", sampler={"num_steps": 4}),
        {**tiny(abbr="remote", sampler="fast"), "path": "someone/not-on-this-machine"},
        {"type": "opencompass.models.OpenAI", "abbr": "api", "path": "x", "sampler": "fast"},
    ]
    cfg = Config({"models": models, "model_dataset_combinations": [{"models": models}]})
    _write_presets_out(cfg)
    cfg.dump(str(tmp_path / "dumped.py"))
    read = Config.fromfile(str(tmp_path / "dumped.py"), format_python_code=False)
    for group in (read, read["model_dataset_combinations"][0]):
        held = [own["sampler"] for own in group["models"]]
        assert held[0] == {"num_steps": 4, **FAST}
        assert held[1] == {"early_stop": True}
        assert held[2:4] == [{}, {"num_steps": 4}]
        assert held[4:] == ["fast", "fast"], "not known what fits it; and not ours"


def test_the_log_of_a_run_says_once_what_a_preset_is_to_each_model(caplog):
    """Where it is written out, a model that is loaded knows of none."""
    models = [{**tiny(sampler="fast", abbr=name), "path": f"asset:tiny-{name}"}
              for name in ("llada", "block", "ar")]  # fmt: skip
    cfg = Config({"models": models, "model_dataset_combinations": [{"models": models}] * 2})
    with caplog.at_level(logging.INFO):
        _write_presets_out(cfg)
    found = [(own.levelname, own.getMessage()) for own in caplog.records]
    assert found == [
        ("INFO", "llada: sampler='fast' is cache=dict(type='prompt', dtype='float8'), "
                 "early_stop=True"),
        ("WARNING", "block: sampler='fast' is early_stop=True; without cache, since it is "
                    "block-causal, and keeps its finished blocks exactly"),
        ("WARNING", "ar: sampler='fast' is without effect here; without cache, early_stop, since "
                    "it is autoregressive"),
    ]  # fmt: skip


def test_a_setting_of_fidelity_without_effect_is_refused(caplog):
    """It would be compared with itself."""
    setting = parse_setting(["sampler=fast"])
    with pytest.raises(ValueError, match="without effect here; .* since it is autoregressive"):
        apply_setting({**tiny(), "path": "asset:tiny-ar"}, setting)
    apply_setting({**tiny(), "path": "asset:tiny-block"}, setting)
    assert "without cache, since it is block-causal" in caplog.text


def test_a_maker_is_that_of_the_options_written_out():
    data = {"infer_cfg": {"inferencer": {"type": "GenInferencer", "max_out_len": 16}}}

    def maker(model):
        options = read_options(model, fetch=False)
        return describe_maker(model, data, files={}, data={}, dtype=None, options=options)

    for path in ("asset:tiny-llada", "asset:tiny-block"):
        named = {**tiny(sampler="fast"), "path": path}
        assert maker(named) == maker(write_out(named))
        assert maker(named) != maker({**tiny(), "path": path})


def test_a_line_of_a_report_names_the_options_that_a_run_had(monkeypatch, tmp_path):
    named = tiny(sampler={"preset": "fast", "num_steps": 4})
    line = describe_sampler(named)
    assert line == describe_sampler(tiny(sampler={"num_steps": 4, **FAST}))
    assert line != describe_sampler(tiny(sampler={"num_steps": 4}))
    recorded = record_model(tmp_path, LLaDACausalLM(named["path"], sampler="fast"), named, {})
    assert recorded["preset"] == {"name": "fast", "options": dict(FAST)}
    monkeypatch.setitem(PRESETS, "fast", ALL_OPTIONS)
    assert describe_sampler(named, recorded) == line, "what it stood for then"
    assert "precision=float8" in describe_sampler(named)
    plain = record_model(tmp_path, LLaDACausalLM(named["path"]), tiny(), {})
    assert plain["preset"] is None


def test_a_setting_of_fidelity_is_written_out_for_its_model():
    setting = parse_setting(["sampler=fast", "num_steps=8"])
    base = tiny(sampler={"block_length": 4, "num_steps": 16})
    found = apply_setting(base, setting)
    assert found["sampler"] == {"block_length": 4, "num_steps": 8, **FAST}
    own = apply_setting({**base, "path": "asset:tiny-block"}, setting)
    assert own["sampler"] == {"block_length": 4, "num_steps": 8, "early_stop": True}
    given = parse_setting(["sampler={'cache': 'dual'}"])
    assert apply_setting(base, given)["sampler"] == {**base["sampler"], "cache": "dual"}
    fast = tiny(sampler="fast")
    assert apply_setting(fast, {"num_steps": 4})["sampler"] == {"num_steps": 4, **FAST}


def test_a_sampler_is_read_as_options():
    assert as_options("fast") == {"preset": "fast"}
    assert as_options(None) == as_options(5) == {}
    assert as_options(SamplerConfig(num_steps=4))["num_steps"] == 4
