"""Model configs by name: one table, a file for every name, nothing offered that is not there."""

from pathlib import Path

import opencompass
import pytest
from mmengine.config import Config
from opencompass.utils.run import match_cfg_file

import opencompass_llada.assets
from opencompass_llada.configs.helpers import model_facts, models, write_models
from opencompass_llada.configs.helpers.model_variants import list_variants
from opencompass_llada.engines.settings import SamplerSettings
from opencompass_llada.sampling import plan_blocks
from opencompass_llada.wrapper import LLaDACausalLM

ROOT = Path(__file__).resolve().parents[1]
HOST_KEYS = ("type", "abbr", "run_cfg")
# LongLLaDA's lambdas and lengths, and the lengths of UltraLLaDA's table of lambdas.
LLADA_SUFFIXES = ["", "_ntk", "_ntk4", "_ntk14", "_ntk31", "_ntk55", "_diffusion_ntk"]
LLADA_SUFFIXES += [f"_diffusion_ntk_{k}k" for k in (8, 16, 32, 64, 128)]
LLAMA_SUFFIXES = ["", "_ntk", "_ntk4", "_ntk13"]
NAMES = {
    "tiny_llada": ["", "_ntk", "_diffusion_ntk"],
    "tiny_llada_long": [""],
    "tiny_ar": ["", "_ntk"],
    "llada_8b_base": LLADA_SUFFIXES,
    "llada_8b_instruct": LLADA_SUFFIXES,
    "llada_1_5": LLADA_SUFFIXES,
    "ultrallada": [""],
    "dream_v0_7b_base": ["", "_ntk5"],
    "dream_v0_7b_instruct": ["", "_ntk5"],
    "llama_3_8b_base": LLAMA_SUFFIXES,
    "llama_3_8b_instruct": LLAMA_SUFFIXES,
}
ALL_NAMES = [name + suffix for name, suffixes in NAMES.items() for suffix in suffixes]


@pytest.fixture(autouse=True)
def no_gpu_and_own_table(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(models, "model_facts", dict(models.model_facts))


@pytest.fixture
def all_assets(monkeypatch, tmp_path):
    """Stand in for a package that ships every asset of the table."""
    for facts in model_facts.known_models.values():
        if facts["path"].startswith("asset:"):
            (tmp_path / facts["path"].removeprefix("asset:")).mkdir()
    monkeypatch.setattr(opencompass_llada.assets, "FOLDER", tmp_path)
    monkeypatch.setattr(models, "model_facts", models.list_offered())


def wrapper_arguments(config):
    return {key: value for key, value in config.items() if key not in HOST_KEYS}


def test_every_name_of_the_table_has_its_file_and_no_file_is_left_over():
    files = {path.stem: path.read_text() for path in (ROOT / "configs/models").glob("[!_]*.py")}
    assert files == write_models.model_files(), "run `make model-configs`"
    assert sorted(files) == sorted(ALL_NAMES)


def test_the_tables_of_the_docs_are_those_of_the_facts():
    text = (ROOT / "docs/models.md").read_text()
    assert write_models.docs_text(text) == text, "run `make model-configs`"
    assert (
        text.count("| `llada_8b_base` | GSAI-ML/LLaDA-8B-Base | masked diffusion, base | 4,096")
        == 1
    )


def test_the_writer_makes_missing_files_and_removes_those_of_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(write_models, "MODELS", tmp_path)
    monkeypatch.setattr(write_models, "DOCS", tmp_path / "models.md")
    (tmp_path / "models.md").write_text((ROOT / "docs/models.md").read_text())
    (tmp_path / "llada_9b.py").write_text("")
    (tmp_path / "__init__.py").write_text("")
    write_models.main()
    assert sorted(path.stem for path in tmp_path.glob("*.py")) == sorted(["__init__", *ALL_NAMES])


def test_opencompass_finds_ours_by_every_name():
    folders = [ROOT / "configs/models", Path(opencompass.__file__).parent / "configs/models"]
    for name in ALL_NAMES:
        found = match_cfg_file([str(folder) for folder in folders], [name])
        assert [Path(path) for _, path in found] == [folders[0] / f"{name}.py"]


@pytest.mark.parametrize("name", ["tiny_llada_ntk", "llada_8b_base_ntk14", "llama_3_8b_base_ntk13"])
def test_a_file_survives_the_dump(name, tmp_path):
    cfg = Config.fromfile(str(ROOT / f"configs/models/{name}.py"), format_python_code=False)
    cfg.dump(str(tmp_path / "x.py"))
    again = Config.fromfile(str(tmp_path / "x.py"), format_python_code=False)
    [first], [second] = cfg["models"], again["models"]
    assert wrapper_arguments(first) == wrapper_arguments(second)
    assert second["type"] == "opencompass_llada.wrapper.LLaDACausalLM"


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_named_config_is_accepted_by_the_wrapper(name, all_assets):
    configs = models.models_of_name(name)
    assert configs
    for config in configs:
        LLaDACausalLM.check_arguments(**wrapper_arguments(config))
    assert len({config["abbr"] for config in configs}) == len(configs)


@pytest.mark.parametrize(
    ("name", "scaling"),
    [
        ("llada_8b_base_ntk31", {"type": "ntk", "theta_multiplier": 31}),
        ("llada_1_5_diffusion_ntk_128k", {"type": "diffusion_ntk", "target_length": 131072}),
        ("llama_3_8b_base_ntk13", {"type": "ntk", "theta_multiplier": 13}),
        (
            "dream_v0_7b_base_ntk5",
            {"type": "ntk", "theta_multiplier": 5, "trained_length": 2048},
        ),
        ("tiny_ar_ntk", {"type": "ntk", "target_length": 2048}),
    ],
)
def test_a_name_says_its_scaling(name, scaling, all_assets):
    [config] = models.models_of_name(name)
    assert config["rope_scaling"] == scaling


def test_ntk_alone_holds_all_lambdas():
    configs = models.models_of_name("llada_8b_base_ntk")
    assert [c["rope_scaling"]["theta_multiplier"] for c in configs] == [4, 14, 31, 55]


@pytest.mark.parametrize("name", ["tiny_llada", "tiny_llada_long"])
def test_a_tiny_model_by_name_fits_answers_of_any_length(name):
    [config] = models.models_of_name(name)
    settings = SamplerSettings(config["sampler"])
    for length in (16, 30, 32, 48, 64, 512):
        assert plan_blocks(settings.for_length(length)).num_steps >= length


def test_the_tiny_models_take_four_tokens_a_step():
    for benchmark, new_tokens in dict(niah=16, ruler=48, longbench=32).items():
        [llada] = models.list_model_configs(["tiny_llada"], benchmark=benchmark)
        [twin] = models.list_model_configs(["tiny_ar"], benchmark=benchmark)
        assert llada["max_out_len"] == twin["max_out_len"] == new_tokens
        plan = plan_blocks(SamplerSettings(llada["sampler"]).for_length(new_tokens))
        assert plan.padded_length == new_tokens == 4 * plan.num_steps


def test_samplers_fit_the_kind_of_model():
    [llada] = models.list_model_configs(["llada_8b_base"], benchmark="ruler")
    [llama] = models.list_model_configs(["llama_3_8b_base"], benchmark="ruler", num_steps=8)
    [dream] = models.list_model_configs(["dream_v0_7b_base"], num_steps=8)
    assert (llada["max_out_len"], llada["sampler"]) == (64, {"block_length": 64, "num_steps": 64})
    assert llama["max_out_len"] == 64
    assert "sampler" not in llama
    assert "block_length" not in dream["sampler"]
    assert (dream["sampler"]["remasking"], dream["sampler"]["num_steps"]) == ("entropy", 8)


def test_a_chat_template_goes_to_chat_models_where_chat_prompts_are_asked_for():
    names = ["llada_8b_base", "llada_8b_instruct"]
    assert [c.get("chat") for c in models.list_model_configs(names, chat=True)] == [None, True]
    assert [c.get("chat") for c in models.list_model_configs(names)] == [None, None]


def test_diffusion_ntk_is_refused_for_an_autoregressive_model_with_the_reason():
    with pytest.raises(ValueError, match=r"0 to T-1 only. Use ntk"):
        models.list_model_configs(["llama_3_8b_base"], ["diffusion_ntk:target_length=16384"])


def test_a_model_is_offered_where_its_asset_is_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(opencompass_llada.assets, "FOLDER", tmp_path)
    assert "tiny_ar" not in models.list_offered()
    monkeypatch.setattr(models, "model_facts", models.list_offered())
    with pytest.raises(ValueError, match="Unknown model 'tiny_ar'") as caught:
        models.list_model_configs(["tiny_ar"])
    assert "tiny_ar" not in str(caught.value).partition("Valid:")[2]
    with pytest.raises(ValueError, match="'asset:tiny-ar' is not shipped"):
        models.models_of_name("tiny_ar_ntk")
    (tmp_path / "tiny-ar").mkdir()
    assert models.list_offered()["tiny_ar"]["title"] == "tiny-ar"


def test_another_checkpoint_of_a_known_kind_by_its_path(tmp_path):
    folder = tmp_path / "long run 3"
    folder.mkdir()
    specs = ["llada_8b_base", f"llada_8b_base={folder}"]
    base, own = models.list_model_configs(specs, ["ntk:theta_multiplier=4"])
    assert own == {
        **base,
        "path": str(folder),
        "abbr": "llada-8b-base-long-run-3_ntk-theta_multiplier4",
    }
    titles = [row["title"] for row in models.describe_models([base, own])]
    assert titles == ["LLaDA-8B-Base", "LLaDA-8B-Base (long-run-3)"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("llada_8b_bas=/x", "Did you mean 'llada_8b_base'"),
        ("llada_8b_base=", "names no path"),
    ],
)
def test_wrong_checkpoints_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        models.resolve_models([spec])


def test_two_checkpoints_in_folders_of_one_name_are_refused():
    with pytest.raises(ValueError, match="another checkpoint's folder is 'x'"):
        models.resolve_models(["llada_8b_base=/a/x", "llada_8b_base=/b/x"])


def test_an_autoregressive_model_is_one_line(monkeypatch):
    page = (ROOT / "docs/models.md").read_text()
    [line] = [line for line in page.splitlines() if line.startswith("qwen2_5_7b=")]
    entry = eval(f"dict({line})", {"autoregressive": model_facts.autoregressive})
    monkeypatch.setattr(models, "known_models", {**models.known_models, **entry})
    monkeypatch.setattr(models, "model_facts", models.list_offered())
    [config] = models.list_model_configs(["qwen2_5_7b"], ["ntk:target_length=65536"])
    assert config["path"] == "Qwen/Qwen2.5-7B"
    LLaDACausalLM.check_arguments(**wrapper_arguments(config))
    assert [row["trained_length"] for row in models.describe_models([config])] == [32768]


def test_variants_know_only_models_of_the_table():
    assert {model for model, _ in list_variants().values()} == set(model_facts.known_models)
