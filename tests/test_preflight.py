"""Faults of a config that are said before any task starts, and the environment check."""

import json
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from safetensors.torch import load_file, save_file
from tiny import write_tiny_checkpoint

from opencompass_llada.runs import checks, doctor, machine

CONFIG = """
from mmengine.config import read_base
from opencompass_llada.wrapper import LLaDACausalLM
from opencompass.datasets import JsonlDataset
from opencompass.openicl.icl_inferencer import GenInferencer

models = [dict(type=LLaDACausalLM, abbr='tiny', path={path!r}, max_out_len=16,
               sampler=dict(block_length=8, num_steps=8), run_cfg=dict(num_gpus=0))]
datasets = [dict(type=JsonlDataset, abbr='toy', path='x',
                 infer_cfg=dict(inferencer=dict(type=GenInferencer)))]
"""


@pytest.fixture
def config(tmp_path):
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    file = tmp_path / "config.py"
    file.write_text(CONFIG.format(path=str(checkpoint)))
    return Config.fromfile(str(file))


def reloaded(config, tmp_path):
    dumped = tmp_path / "dumped.py"
    config.dump(str(dumped))
    return Config.fromfile(str(dumped))


def check(config):
    doctor.check_config(config, runs_locally=True)


def test_a_sound_config_passes_before_and_after_its_dump(config, tmp_path):
    check(config)
    check(reloaded(config, tmp_path))


@pytest.mark.parametrize("dumped", [False, True])
def test_faults_name_the_model_and_the_remedy(config, tmp_path, dumped):
    config.models[0]["sampler"]["blok_length"] = 4
    if dumped:
        config = reloaded(config, tmp_path)
    with pytest.raises(ValueError, match=r"model 'tiny': .*Did you mean 'block_length'"):
        check(config)


def test_steps_are_checked_against_each_data_sets_length(config):
    config.datasets[0]["infer_cfg"]["inferencer"]["max_out_len"] = 24
    with pytest.raises(ValueError, match=r"num_steps=8 must be a multiple of the 3 blocks"):
        check(config)


def test_a_wrong_path_is_found(config):
    config.models[0]["path"] = "./nowhere"
    with pytest.raises(ValueError, match="neither an existing folder nor a hub id"):
        check(config)
    config.models[0]["path"] = "organisation/not-downloaded-by-the-check"
    check(config)


def drop_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.transformer.ln_f.weight"]
    save_file(tensors, folder / "model.safetensors")


def break_the_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")


def forget_the_mask(folder):
    fields = json.loads((folder / "config.json").read_text())
    del fields["mask_token_id"]
    (folder / "config.json").write_text(json.dumps(fields))


def ask_for_alibi(folder):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "alibi": True}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_a_tensor, "1 missing: model.transformer.ln_f.weight"),
        (break_the_tokenizer, "No tokenizer could be loaded from"),
        (forget_the_mask, "config.json has no mask_token_id"),
        (ask_for_alibi, "alibi=True is not implemented"),
    ],
)
def test_a_broken_checkpoint_is_found_before_any_task(config, damage, message):
    damage(Path(config.models[0]["path"]))
    with pytest.raises(ValueError, match=f"model 'tiny': .*{message}"):
        check(config)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rope_scaling": {"type": "ntk", "target_length": 8}}, "below the trained length 64"),
        ({"tokenizer_path": "./nowhere"}, "there is no folder './nowhere'"),
        ({"diffusion_config": {"mask_id": 5}, "sampler": None}, "the checkpoint's is 258"),
        ({"dtype": "bfloat61"}, "Did you mean 'bfloat16'"),
        ({"attention_backend": "sdpa_flsh"}, "Did you mean 'sdpa_flash'"),
        ({"path": None}, "path is missing"),
    ],
)
def test_keywords_that_do_not_fit_the_checkpoint_are_found(config, keywords, message):
    config.models[0].update(keywords)
    with pytest.raises(ValueError, match=message):
        check(config)


def test_steps_are_checked_against_the_default_length(config):
    del config.models[0]["max_out_len"]
    config.models[0]["sampler"] = {"block_length": 32, "num_steps": 6}
    with pytest.raises(ValueError, match=r"num_steps=6 must be a multiple of the 4 blocks"):
        check(config)


def test_a_limit_without_room_is_found(config):
    config.models[0]["max_seq_len"] = 16
    with pytest.raises(ValueError, match="no room for a prompt"):
        check(config)


def test_more_gpus_than_there_are_is_an_error_that_says_so(config, monkeypatch):
    monkeypatch.setattr(checks, "count_gpus", lambda: 0)
    config.models[0]["run_cfg"]["num_gpus"] = 1
    with pytest.raises(ValueError, match="num_gpus=1, and 0 are visible"):
        check(config)
    doctor.check_config(config, runs_locally=False)


def test_several_processes_a_model_are_refused(config):
    config.models[0]["run_cfg"]["num_procs"] = 2
    with pytest.raises(ValueError, match="use num_procs=1"):
        check(config)


def test_missing_data_of_a_needle_cell_is_found(config, tmp_path):
    cell = {
        "type": "opencompass_llada.benchmarks.needle.dataset.NeedleBenchSingleDataset",
        "abbr": "cell",
        "path": str(tmp_path / "no-data"),
        "length": 64,
        "depth": 50,
        "tokenizer": config.models[0]["path"],
        "file_list": ["haystack.jsonl"],
        "num_repeats_per_file": 1,
        "length_buffer": "fit",
        "guide": False,
        "language": "English",
    }
    config.datasets = [*config.datasets, cell]
    with pytest.raises(ValueError, match="no-data"):
        check(config)
    doctor.check_config(config, runs_locally=False)


def test_two_models_of_one_name_are_refused(config):
    config.models = [config.models[0], {**config.models[0], "seed": 1}]
    with pytest.raises(ValueError, match="'tiny' is the abbr of 2 entries"):
        check(config)


def test_two_models_of_one_name_are_found_in_every_group(config):
    model, dataset = config.models[0], config.datasets[0]
    config.model_dataset_combinations = [
        {"models": [model], "datasets": [dataset]},
        {"models": [{**model, "abbr": "b"}, {**model, "abbr": "b"}], "datasets": [dataset]},
    ]
    with pytest.raises(ValueError, match="'b' is the abbr of 2 entries"):
        check(config)


def test_models_of_others_are_left_alone(config, tmp_path):
    config = reloaded(config, tmp_path)
    config.models = [{"type": "opencompass.models.HuggingFaceBaseModel", "abbr": "x", "odd": 1}]
    check(config)


def test_a_data_set_whose_load_is_no_static_method_is_taken(config):
    """A third of OpenCompass's own are so; `self` is no keyword that a config could lack."""
    config.datasets[0]["type"] = "opencompass.datasets.AdvRteDataset"
    check(config)
    config.datasets[0]["pth"] = "x"
    with pytest.raises(ValueError, match="'pth'; AdvRteDataset takes path"):
        check(config)


def test_the_requirements_are_met_here_and_read_alike(repository_root):
    requirements = machine.read_requirements(repository_root)
    machine.check_environment(requirements)
    assert any(line.startswith("pyarrow<") for line in requirements)


@pytest.mark.parametrize(
    ("requirement", "fault"),
    [
        ("torch>=99", "torch 2.* does not fit >=99"),
        ("no-such-package-anywhere>=1", "no-such-package-anywhere is not installed"),
    ],
)
def test_what_does_not_fit_is_named_with_the_pip_command(requirement, fault):
    with pytest.raises(machine.EnvironmentFault, match=fault) as caught:
        machine.check_environment(["tqdm", requirement])
    assert f"-m pip install '{requirement}'" in str(caught.value)


def test_an_unsupported_python_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 13, 0, "final", 0))
    with pytest.raises(machine.EnvironmentFault, match=r"3\.10 to 3\.12"):
        machine.check_environment([])
