"""Model configs by name: one table, a file for every name, nothing offered that is not there."""

import json
from pathlib import Path

import opencompass
import pytest
from mmengine.config import Config
from opencompass.utils.run import match_cfg_file
from tiny import write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint
from tiny_illada import write_tiny_illada
from tiny_sdar import write_tiny_sdar

import opencompass_llada.assets
from opencompass_llada.engines import SamplerSettings
from opencompass_llada.runs import new_config
from opencompass_llada.runs.model_configs import ModelTable
from opencompass_llada.runs.model_table import KNOWN_MODELS, autoregressive
from opencompass_llada.runs.planning import list_models, plan_run
from opencompass_llada.wrapper import LLaDACausalLM

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs/reference/models.md"
HOST_KEYS = ("type", "abbr", "run_cfg")
# What docs/reference/models.md gives to LLADA_SCALING: LongLLaDA's lambdas and lengths, and the
# lengths of UltraLLaDA's table of lambdas.
LLADA_SCALINGS = [f"ntk:theta_multiplier={factor}" for factor in (4, 14, 31, 55)]
LLADA_SCALINGS += [f"diffusion_ntk:target_length={1024 * k}" for k in (8, 16, 32, 64, 128)]
LLAMA_SCALINGS = ["ntk:theta_multiplier=4", "ntk:theta_multiplier=13"]
SCALINGS = {
    "tiny_llada": ["ntk", "diffusion_ntk"],
    "tiny_llada_long": [],
    "tiny_block": ["ntk"],
    "tiny_ar": ["ntk"],
    "llada_8b_base": LLADA_SCALINGS,
    "llada_8b_instruct": LLADA_SCALINGS,
    "llada_1_5": LLADA_SCALINGS,
    "ultrallada": [],
    "dream_v0_7b_base": ["ntk:theta_multiplier=5"],
    "dream_v0_7b_instruct": ["ntk:theta_multiplier=5"],
    "illada_8b_base": [],
    "illada_8b_instruct": [],
    "sdar_1_7b_chat": [],
    "sdar_4b_chat": [],
    "sdar_8b_chat": [],
    "llada_moe_7b_base": [],
    "llada_moe_7b_instruct": [],
    "llada2_mini": ["yarn:factor=2"],
    "fast_dllm_v2_1_5b": [],
    "fast_dllm_v2_7b": [],
    "diffusion_gemma_26b_it": [],
    "llama_3_8b_base": LLAMA_SCALINGS,
    "llama_3_8b_instruct": LLAMA_SCALINGS,
}
ALL_NAMES = list(SCALINGS)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def all_assets(monkeypatch, tmp_path):
    """Stand in for a package that ships every asset of the table."""
    for facts in KNOWN_MODELS.values():
        if facts.path.startswith("asset:"):
            (tmp_path / facts.path.removeprefix("asset:")).mkdir()
    monkeypatch.setattr(opencompass_llada.assets, "FOLDER", tmp_path)


def list_configs(*args, **options):
    return ModelTable().list_configs(*args, **options)


def wrapper_arguments(config):
    return {key: value for key, value in config.items() if key not in HOST_KEYS}


def test_every_model_of_the_table_has_its_file_and_no_file_is_left_over():
    files = {path.stem for path in (ROOT / "configs/models").glob("[!_]*.py")}
    assert files == set(ALL_NAMES) == set(KNOWN_MODELS)
    for name in files:
        text = (ROOT / f"configs/models/{name}.py").read_text()
        assert text.endswith(f'models = __list_models("{name}")\n')


def test_opencompass_finds_ours_by_every_name():
    folders = [ROOT / "configs/models", Path(opencompass.__file__).parent / "configs/models"]
    for name in ALL_NAMES:
        found = match_cfg_file([str(folder) for folder in folders], [name])
        assert [Path(path) for _, path in found] == [folders[0] / f"{name}.py"]


@pytest.mark.parametrize(
    ("name", "scaling"),
    [
        ("tiny_llada", "ntk"),
        ("llada_8b_base", "ntk:theta_multiplier=14"),
        ("llama_3_8b_base", "ntk:theta_multiplier=13"),
    ],
)
def test_a_file_survives_the_dump(name, scaling, tmp_path, monkeypatch):
    monkeypatch.setenv("LLADA_SCALING", scaling)
    cfg = Config.fromfile(str(ROOT / f"configs/models/{name}.py"), format_python_code=False)
    cfg.dump(str(tmp_path / "x.py"))
    monkeypatch.delenv("LLADA_SCALING")
    again = Config.fromfile(str(tmp_path / "x.py"), format_python_code=False)
    [first], [second] = cfg["models"], again["models"]
    assert wrapper_arguments(first) == wrapper_arguments(second)
    assert second["type"] == "opencompass_llada.wrapper.LLaDACausalLM"


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_named_config_is_accepted_by_the_wrapper(name, all_assets):
    configs = list_models(name, scaling=["all"])
    assert len(configs) == 1 + len(SCALINGS[name])
    for config in configs:
        LLaDACausalLM.check_arguments(**wrapper_arguments(config))
    assert len({config["abbr"] for config in configs}) == len(configs)
    own = [option for option in KNOWN_MODELS[name].scalings]
    assert own == SCALINGS[name]


@pytest.mark.parametrize(
    ("name", "text", "scaling"),
    [
        ("llada_8b_base", "ntk:theta_multiplier=31", {"type": "ntk", "theta_multiplier": 31}),
        (
            "llada_1_5",
            "diffusion_ntk:target_length=131072",
            {"type": "diffusion_ntk", "target_length": 131072},
        ),
        ("llama_3_8b_base", "ntk:theta_multiplier=13", {"type": "ntk", "theta_multiplier": 13}),
        (
            "dream_v0_7b_base",
            "ntk:theta_multiplier=5",
            {"type": "ntk", "theta_multiplier": 5, "trained_length": 2048},
        ),
        ("tiny_ar", "ntk", {"type": "ntk", "target_length": 2048}),
    ],
)
def test_a_variable_chooses_the_scaling(name, text, scaling, all_assets, monkeypatch):
    monkeypatch.setenv("LLADA_SCALING", text)
    [config] = list_models(name)
    assert config["rope_scaling"] == scaling


def test_variables_of_data_sets_are_of_no_concern_and_wrong_ones_are_named(monkeypatch):
    monkeypatch.setenv("LLADA_LENGTHS", "4096")
    monkeypatch.setenv("LLADA_DTYPE", "float16")
    monkeypatch.setenv("LLADA_BATCH_SIZE", "3")
    path = str(ROOT / "configs/models/tiny_llada.py")
    [config] = Config.fromfile(path, format_python_code=False)["models"]
    assert (config["dtype"], config["batch_size"]) == ("float16", 3)
    monkeypatch.setenv("LLADA_SCALINGS", "ntk")
    with pytest.raises(ValueError, match="Did you mean 'LLADA_SCALING'"):
        Config.fromfile(path, format_python_code=False)


def test_ntk_all_holds_all_lambdas():
    configs = list_models("llada_8b_base", scaling=["ntk:all"])
    assert [c["rope_scaling"]["theta_multiplier"] for c in configs] == [4, 14, 31, 55]


@pytest.mark.parametrize("name", ["tiny_llada", "tiny_llada_long"])
def test_a_tiny_model_by_name_fits_answers_of_any_length(name):
    [config] = list_models(name)
    settings = SamplerSettings(config["sampler"])
    for length in (16, 30, 32, 48, 64, 512):
        assert settings.for_length(length).plan().num_steps >= length


def test_the_tiny_models_take_four_tokens_a_step():
    for benchmark, new_tokens in dict(niah=16, ruler=48, longbench=32).items():
        [llada] = list_configs(["tiny_llada"], benchmark=benchmark)
        [twin] = list_configs(["tiny_ar"], benchmark=benchmark)
        assert llada["max_out_len"] == twin["max_out_len"] == new_tokens
        plan = SamplerSettings(llada["sampler"]).for_length(new_tokens).plan()
        assert plan.padded_length == new_tokens == 4 * plan.num_steps


def test_samplers_fit_the_kind_of_model():
    [llada] = list_configs(["llada_8b_base"], benchmark="ruler")
    [llama] = list_configs(["llama_3_8b_base"], benchmark="ruler", num_steps=8)
    [dream] = list_configs(["dream_v0_7b_base"], num_steps=8)
    assert (llada["max_out_len"], llada["sampler"]) == (64, {"block_length": 64, "num_steps": 64})
    assert llama["max_out_len"] == 64
    assert "sampler" not in llama
    assert "block_length" not in dream["sampler"]
    assert (dream["sampler"]["remasking"], dream["sampler"]["num_steps"]) == ("entropy", 8)


def test_a_chat_template_goes_to_chat_models_where_chat_prompts_are_asked_for():
    names = ["llada_8b_base", "llada_8b_instruct"]
    assert [c.get("chat") for c in list_configs(names, chat=True)] == [None, True]
    assert [c.get("chat") for c in list_configs(names)] == [None, None]


def test_diffusion_ntk_is_refused_for_an_autoregressive_model_with_the_reason():
    with pytest.raises(ValueError, match=r"0 to T-1 only. Use ntk"):
        list_configs(["llama_3_8b_base"], ["diffusion_ntk:target_length=16384"])


def test_a_block_causal_models_table_leaves_its_blocks_to_config_json(tmp_path):
    with pytest.raises(ValueError, match=r"a block-causal one sees .* 0 to T-1 only. Use ntk"):
        list_configs(["sdar_8b_chat"], ["diffusion_ntk:target_length=65536"])
    [config] = list_configs(["sdar_8b_chat"], ["ntk"], benchmark="ruler", block_length=64)
    assert config["sampler"] == {"num_steps": 64}, "RULER's block is the bidirectional models'"
    assert config["rope_scaling"] == {"type": "ntk", "target_length": 131072}
    folder = write_tiny_sdar(
        tmp_path / "sdar", block_size=KNOWN_MODELS["sdar_8b_chat"].block_length
    )
    for benchmark, steps in {"niah": 32, "ruler": 64, "longbench": 512}.items():
        [own] = list_configs([f"sdar_8b_chat={folder}"], benchmark=benchmark)
        settings = LLaDACausalLM.check_arguments(**wrapper_arguments(own)).settings
        plan = settings.for_length(own["max_out_len"]).plan()
        assert (plan.num_steps, plan.steps_per_block, plan.block_length) == (steps, 4, 4)
    [own] = list_models("sdar_8b_chat")
    assert own["sampler"] == {"num_steps": None}, "one token a step for data sets of any length"


def test_a_model_is_offered_where_its_asset_is_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(opencompass_llada.assets, "FOLDER", tmp_path)
    assert "tiny_ar" not in ModelTable().models
    with pytest.raises(ValueError, match="Unknown model 'tiny_ar'") as caught:
        list_configs(["tiny_ar"])
    assert "tiny_ar" not in str(caught.value).partition("Valid:")[2]
    with pytest.raises(ValueError, match="'asset:tiny-ar' is not shipped"):
        list_models("tiny_ar")
    (tmp_path / "tiny-ar").mkdir()
    assert ModelTable()["tiny_ar"].title == "tiny-ar"


def test_a_mistyped_folder_is_told_from_a_mistyped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-llada").mkdir()
    (tmp_path / "my-llada" / "config.json").write_text("{}")
    for check in (lambda name: list_configs([name]), new_config._check_model):
        with pytest.raises(ValueError, match="No folder .* the folder 'my-llada'\\? Valid"):
            check("my-lada")
        with pytest.raises(ValueError, match="Did you mean 'tiny_llada'"):
            check("tiny_lada")


def test_another_checkpoint_of_a_known_kind_by_its_path(tmp_path):
    folder = tmp_path / "long run 3"
    folder.mkdir()
    specs = ["llada_8b_base", f"llada_8b_base={folder}"]
    table = ModelTable()
    base, own = table.list_configs(specs, ["ntk:theta_multiplier=4"])
    assert own == {
        **base,
        "path": str(folder),
        "abbr": "llada-8b-base-long-run-3_ntk-theta_multiplier4",
    }
    titles = [row["title"] for row in table.describe([base, own])]
    assert titles == ["LLaDA-8B-Base", "LLaDA-8B-Base (long-run-3)"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("llada_8b_bas=/x", "Did you mean 'llada_8b_base'"),
        ("llada_8b_base=", "names no path"),
        ("/no/such/folder", "neither an existing folder nor a hub id 'organisation/name'"),
        ("tests", "model '/.*tests': .* has no config.json. Give the folder"),
        ("mine=here", "model 'mine': Checkpoint 'here' is neither an existing folder"),
    ],
)
def test_wrong_checkpoints_are_refused(spec, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=message):
        ModelTable().resolve([spec])


def test_folders_of_one_name_are_told_apart_by_the_folders_around_them(tmp_path):
    for path in ("one/step=9/final", "two/step=9/final", "three/final", "tiny_ar"):
        write_tiny_sdar(tmp_path / path, max_position_embeddings=128)
    first, second, third = (str(tmp_path / path) for path in (
        "one/step=9/final", "two/step=9/final", "three/final"))  # fmt: skip
    table = ModelTable()
    names = table.resolve([first, second, third, "tiny_ar", str(tmp_path / "tiny_ar"), first])
    assert names[:4] == ["one-step-9-final", "two-step-9-final", "three-final", "tiny_ar"]
    assert names[4].endswith("-tiny-ar")
    assert len(names) == 5, "a checkpoint that is named twice is one model"
    assert table["one-step-9-final"].title == "one/step=9/final"
    own = table.resolve([f"sdar_8b_chat={first}", f"sdar_8b_chat={third}"])
    assert own == ["sdar_8b_chat-step-9-final", "sdar_8b_chat-three-final"]
    configs = table.list_configs([*names, *own])
    assert len({config["abbr"] for config in configs}) == 7
    titles = [row["title"] for row in table.describe(configs)]
    assert titles[-2:] == ["SDAR-8B-Chat (step-9-final)", "SDAR-8B-Chat (three-final)"]
    assert len({*titles}) == 7


def test_an_alias_is_one_checkpoint_and_no_kind(tmp_path):
    for path in ("a/final", "b/final", "\u6a21\u578b"):
        write_tiny_sdar(tmp_path / path, max_position_embeddings=128)
    first, second = (str(tmp_path / path) for path in ("a/final", "b/final"))
    for specs, told in (
        ([f"mine={first}", f"mine={second}"], "'mine' is the name of two checkpoints"),
        (["tiny_llada", f"tiny-llada={first}"], "'tiny-llada' is the name of two checkpoints"),
        ([str(tmp_path / "\u6a21\u578b")], "needs a letter of a to z or a digit"),
        ([f"\u6a21={first}"], "needs a letter of a to z or a digit"),
    ):
        with pytest.raises(ValueError, match=told):
            ModelTable().resolve(specs)
    table = ModelTable()
    specs = [f"mine={first}", f"sdar_8b_chat={first}", f"sdar_8b_chat={second}"]
    names = table.resolve(specs)
    assert [name for spec in specs for name in table.resolve([spec])] == names, "asked again"
    rows = [{"model": spec, "scaling": "none"} for spec in specs]
    assert len(table.list_configs(specs, rows=rows)) == 3


def test_a_path_alone_is_a_model_of_what_its_config_json_says(tmp_path, monkeypatch):
    sdar = write_tiny_sdar(tmp_path / "my-sdar", max_position_embeddings=96)
    llada = write_tiny_checkpoint(tmp_path / "llada")
    write_llama_checkpoint(tmp_path / "llama", max_position_embeddings=80)
    monkeypatch.chdir(tmp_path)
    table = ModelTable()
    specs = [str(sdar), "./llada", "mine = ./llama", "GSAI-ML/LLaDA-8B-Base", "asset:tiny-ar"]
    names = table.resolve(specs)
    assert names == ["my-sdar", "llada", "mine", "llada_8b_base", "tiny_ar"]
    facts = [table[name] for name in names[:3]]
    assert [own.family for own in facts] == ["sdar", "llada", "autoregressive"]
    assert [own.trained_length for own in facts] == [96, 64, 80]
    assert [own.block_length for own in facts] == [4, None, None]
    assert [own.path for own in facts] == [str(sdar), str(llada), str(tmp_path / "llama")]
    configs = table.list_configs(names[:3], ["all"], benchmark="ruler")
    assert [config["abbr"] for config in configs] == names[:3], "no scaling that was not asked for"
    assert [config.get("sampler") for config in configs] == [
        {"num_steps": 64}, {"num_steps": 64, "block_length": 64}, None,
    ]  # fmt: skip
    assert [row["title"] for row in table.describe(configs)] == ["my-sdar", "llada", "mine"]
    assert [row["trained_length"] for row in table.describe(configs)] == [96, 64, 80]
    for config in configs:
        LLaDACausalLM.check_arguments(**wrapper_arguments(config))


def test_a_mixed_list_of_scalings_skips_what_does_not_fit_with_a_note(caplog):
    scalings = ["none", "ntk", "diffusion_ntk", "yarn:factor=4"]
    names = ["tiny_llada", "tiny_ar", "diffusion_gemma_26b_it"]
    rows = ModelTable().pair(names, scalings)
    assert [row["scaling"] for row in rows] == [*scalings, "none", "ntk", "yarn:factor=4", "none"]
    assert "tiny_ar is not run with scaling diffusion_ntk: scaling 'diffusion_ntk' is not for " in (
        caplog.text
    )
    assert caplog.text.count("is not run with scaling") == 4
    with pytest.raises(ValueError, match="'diffusion_ntk' is not for 'tiny_ar'"):
        ModelTable().pair(["tiny_ar", "tiny_block"], ["none", "diffusion_ntk"])  # it fits none
    with pytest.raises(ValueError, match="'diffusion_ntk' is not for 'tiny_ar'"):
        ModelTable().pair(["tiny_llada", "tiny_ar"], ["diffusion_ntk"])  # none fits tiny_ar


def test_models_of_a_variable_alone_are_run_without_scaling(monkeypatch):
    monkeypatch.setenv("LLADA_MODELS", "tiny_llada")
    assert len(plan_run("niah", {"scaling": ["all"], "data": "embedded"}).models) == 1
    monkeypatch.setenv("LLADA_SCALING", "all")
    assert len(plan_run("niah", {"scaling": ["none"], "data": "embedded"}).models) == 3
    for name in ("LLADA_MODELS", "LLADA_SCALING"):
        monkeypatch.delenv(name)
    given = {"models": ["tiny_ar"], "scaling": ["all"], "data": "embedded"}
    assert len(plan_run("niah", given).models) == 2


def test_lengths_of_a_run_are_those_of_the_checkpoint_at_the_path(tmp_path, monkeypatch):
    folder = write_tiny_sdar(tmp_path / "own", max_position_embeddings=2048)
    for spec in (str(folder), f"tiny_block={folder}"):
        monkeypatch.setenv("LLADA_MODELS", spec)
        settings = plan_run("niah", {"data": "embedded"}).settings
        assert settings["lengths"] == [1024, 2048, 4096, 8192]


def test_an_autoregressive_model_is_one_line():
    [line] = [line for line in DOCS.read_text().splitlines() if line.startswith('"qwen2_5_7b": ')]
    entry = eval(f"{{{line}}}", {"autoregressive": autoregressive})
    table = ModelTable({**KNOWN_MODELS, **entry})
    [config] = table.list_configs(["qwen2_5_7b"], ["ntk:target_length=65536"])
    assert config["path"] == "Qwen/Qwen2.5-7B"
    LLaDACausalLM.check_arguments(**wrapper_arguments(config))
    assert [row["trained_length"] for row in table.describe([config])] == [32768]


def test_a_checkpoint_by_its_path_has_the_trained_length_that_its_config_json_states(tmp_path):
    """A post-trained checkpoint's own, not that of the NAME that it is like."""
    table = ModelTable()
    write_tiny_sdar(tmp_path / "own", max_position_embeddings=128)
    (tmp_path / "llama").mkdir()
    stated = {"model_type": "llama", "max_position_embeddings": 96}
    (tmp_path / "llama" / "config.json").write_text(json.dumps(stated))
    (tmp_path / "bare").mkdir()
    specs = [f"tiny_block={tmp_path / 'own'}", f"tiny_ar={tmp_path / 'llama'}", "tiny_block"]
    specs += [f"tiny_block={tmp_path / 'bare'}"]  # which is refused before it runs
    names = table.resolve(specs)
    configs = [config for name in names for config in table.list_configs([name])]
    found = [row["trained_length"] for row in table.describe(configs)]
    assert found == [128, 96, 512, None], "unknown, and not another checkpoint's"


def test_illada_appends_its_blocks_and_other_names_do_not(tmp_path):
    folder = write_tiny_illada(tmp_path / "illada")
    given = list_configs([f"illada_8b_instruct={folder}", "llada_8b_base"], benchmark="longbench")
    illada, llada = (config["sampler"] for config in given)
    assert illada == {**llada, "variable_length": True}
    model = LLaDACausalLM(**{**wrapper_arguments(given[0]), "chat": None, "dtype": "float32"})
    model.generate(["abc"], max_out_len=128)
    assert model.engine.settings.for_length(128).variable_length
    assert model.engine.totals.num_forward_passes in (64, 128), "one or both blocks of 64"


@pytest.mark.parametrize("names_mask", [True, False])
def test_illadas_mask_is_five_whether_or_not_config_json_says_so(tmp_path, names_mask):
    folder = write_tiny_illada(tmp_path / "illada")
    fields = json.loads((folder / "config.json").read_text())
    if not names_mask:
        del fields["mask_token_id"]
    (folder / "config.json").write_text(json.dumps(fields))
    [config] = list_configs([f"illada_8b_base={folder}"], benchmark="niah")
    model = LLaDACausalLM(**wrapper_arguments(config))
    assert model.special_tokens.mask_token_id == 5


def test_an_adapter_over_a_checkpoint_is_a_model(tmp_path, monkeypatch):
    """By a listed name, its path, an alias or a bare path; the length is the adapter's."""
    write_tiny_checkpoint(tmp_path / "base", max_sequence_length=64)
    for run in ("one", "two"):
        folder = tmp_path / run / "final" / "adapter"
        folder.mkdir(parents=True)
        fields = json.loads((tmp_path / "base" / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**fields, "max_sequence_length": 256}))
    monkeypatch.chdir(tmp_path)
    one, two = ("one/final/adapter", "two/final/adapter")
    table = ModelTable()
    names = table.resolve(
        ["tiny_llada", f"tiny_llada+peft={one}", f"asset:tiny-llada+peft={two}",
         f"base+peft={one}", f"mine=./base+peft={two}"]
    )  # fmt: skip
    assert len(names) == 5
    assert names[4] == "mine"
    assert all(name.startswith("tiny_llada-") for name in names[1:3])
    assert [table[name].trained_length for name in names] == [512, 256, 256, 256, 256]
    configs = table.list_configs(names)
    asset, base = "asset:tiny-llada", str(tmp_path / "base")
    assert [config["path"] for config in configs] == [asset, asset, asset, base, base]
    paths = [config.get("peft_path") for config in configs]
    assert paths == [None, *(str(tmp_path / path) for path in (one, two, one, two))]
    assert len({config["abbr"] for config in configs}) == 5
    with pytest.raises(ValueError, match="between a checkpoint and an adapter"):
        table.resolve(["tiny_llada+peft="])
