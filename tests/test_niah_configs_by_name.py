"""Needle data sets that are chosen by the names of their config files."""

import json
from pathlib import Path

import pytest
from config_forms import NAMES, cells_of
from mmengine.config import Config
from prompt_capture import plain

from opencompass_llada.benchmarks.needle.dataset import NeedleBenchSingleDataset

ROOT = Path(__file__).resolve().parents[1]
FORMS = [name for name in NAMES if name.startswith("niah_")]
HOST_KEYS = ("abbr", "type", "reader_cfg", "infer_cfg", "eval_cfg")


def parse(path):
    return Config.fromfile(str(path), format_python_code=False)


def dump_and_reload(cfg, path):
    cfg.dump(str(path))
    return parse(path)


def cell_options(dataset):
    """Return what a data set config gives to its class."""
    return {key: value for key, value in dataset.items() if key not in HOST_KEYS}


@pytest.mark.parametrize("name", FORMS)
def test_data_sets_by_name_survive_the_dump(name, tmp_path):
    cells = cells_of(name)
    first = cells[0]
    small = Config({"datasets": [first]})
    again = dump_and_reload(small, tmp_path / "x.py")["datasets"][0]
    assert cell_options(again) == cell_options(first)
    assert plain(again["type"]) == plain(first["type"])
    for dataset in cells:
        NeedleBenchSingleDataset.check_options(**cell_options(dataset))


def test_longllada_grid():
    cells = cells_of("niah_en")
    assert {c["length"] for c in cells} == {2000, 4000, 8000, 16000, 24000, 32000}
    assert {c["depth"] for c in cells} == set(range(0, 101, 10))
    assert len(cells) == 66
    assert {(c["num_repeats_per_file"], c["length_buffer"], c["guide"]) for c in cells} == {
        (10, 600, False)
    }
    assert {c["infer_cfg"]["inferencer"]["max_out_len"] for c in cells} == {32}
    assert {len(c["infer_cfg"]["prompt_template"]["template"]["round"]) for c in cells} == {1}
    chinese = cells_of("niah_zh")
    assert {(c["length_buffer"], *c["file_list"]) for c in chinese} == {(200, "zh_all.jsonl")}


def test_trained_length_of_the_shipped_model_is_its_checkpoints():
    from opencompass_llada.runs.model_table import KNOWN_MODELS

    shipped = ROOT / "opencompass_llada/assets/tiny-llada/config.json"
    config = json.loads(shipped.read_text(encoding="utf-8"))
    assert KNOWN_MODELS["tiny_llada"].trained_length == config["max_sequence_length"]


def test_depths_may_be_fractions():
    from opencompass_llada.needlebench.niah import niah_cells

    cells = niah_cells(depths=(0, 12.5, 100), lengths=(2000,))
    assert [cell["abbr"].split("_")[4] for cell in cells] == ["depth000", "depth12.5", "depth100"]
