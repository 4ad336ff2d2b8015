"""OpenCompass's own NeedleBench configs as they are, with our model and summarizer."""

import csv
import json
from copy import deepcopy
from pathlib import Path

import opencompass
import pytest
from mmengine.config import Config
from opencompass.partitioners import NumWorkerPartitioner
from opencompass.tasks import OpenICLEvalTask, OpenICLInferTask
from prompt_capture import plain
from tiny import write_tiny_checkpoint

from opencompass_llada.report.summarizers import NeedleSummarizer

STOCK = Path(opencompass.__file__).parent / "configs/datasets"


@pytest.mark.parametrize(
    "path",
    [
        "needlebench_v2/needlebench_v2_4k/needlebench_v2_single_4k.py",
        "needlebench/needlebench_base/needlebench_single.py",
    ],
)
def test_opencompass_own_configs_work_with_our_summarizer(path, tmp_path):
    cfg = Config.fromfile(str(STOCK / path), format_python_code=False)
    sets = [cell for key in cfg if key.endswith("_datasets") for cell in cfg[key]]
    lengths = sorted({cell["length"] for cell in sets})[:2]
    sets = [cell for cell in sets if cell["length"] in lengths]
    folder, predictions = tmp_path / "results/m", tmp_path / "predictions/m"
    folder.mkdir(parents=True)
    predictions.mkdir(parents=True)
    for cell in sets:
        num_samples = cell["num_repeats_per_file"] * len(cell["file_list"])
        result = {"score": 50.0, "details": [{"pred": ["x"], "score": [50.0]}] * num_samples}
        (folder / f"{cell['abbr']}.json").write_text(json.dumps(result))
        (predictions / f"{cell['abbr']}.json").write_text('{"0": {"prediction": "x"}}')
    run = dict(models=[dict(abbr="m", type="x.Y", path="p")], datasets=sets, work_dir=str(tmp_path))
    NeedleSummarizer(run).summarize("now")
    table = (tmp_path / "summary/summary_now.md").read_text()
    assert table.startswith("Mean score over depths")
    assert "50.0" in table
    assert (tmp_path / "summary/heatmap_all_now.png").is_file()
    (folder / f"{sets[0]['abbr']}.json").unlink()
    with pytest.raises(SystemExit):
        NeedleSummarizer(run).summarize("now")
    assert "missing 1 of" in (tmp_path / "summary/summary_now.md").read_text()


@pytest.fixture
def stock_run(real_data_root, monkeypatch, tmp_path):
    """Return a run of two cells of OpenCompass's own config on a random model; nothing is run."""
    if not (real_data_root / "data/tiktoken").is_dir():
        pytest.skip("no data/tiktoken: set COMPASS_DATA_CACHE")
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(real_data_root))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(real_data_root / "data/tiktoken"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("DATASET_SOURCE", raising=False)
    monkeypatch.chdir(tmp_path)
    path = STOCK / "needlebench_v2/needlebench_v2_4k/needlebench_v2_single_4k.py"
    stock = Config.fromfile(str(path), format_python_code=False)
    cells = plain(list(stock["needlebench_en_datasets"]))
    length = min(cell["length"] for cell in cells)
    cells = [cell for cell in cells if cell["length"] == length and cell["depth"] in (0, 100)]
    for cell in cells:
        cell["infer_cfg"]["inferencer"]["max_out_len"] = 4
    model = dict(
        type="opencompass_llada.wrapper.LLaDACausalLM", abbr="m",
        path=str(write_tiny_checkpoint(tmp_path / "tiny")), max_seq_len=60, drop_middle=True,
        sampler=dict(block_length=4, num_steps=1), max_out_len=4, batch_size=4,
        run_cfg=dict(num_gpus=0),
    )  # fmt: skip
    return dict(models=[model], datasets=cells, work_dir=str(tmp_path / "run"))


def evaluate(run):
    task = dict(run, datasets=[run["datasets"]], eval=dict(runner=dict(task=dict(dump_details=1))))
    OpenICLEvalTask(Config(deepcopy(task))).run()


def read_table(run):
    with (Path(run["work_dir"]) / "summary/results_now.csv").open() as lines:
        return [row for row in csv.DictReader(lines) if row["metric"] == "score"]


def test_stock_data_evaluator_and_tasks_end_in_our_heat_map(stock_run):
    OpenICLInferTask(Config(deepcopy(dict(stock_run, datasets=[stock_run["datasets"]])))).run()
    evaluate(stock_run)
    NeedleSummarizer(stock_run).summarize("now")
    assert [(row["status"], row["n"]) for row in read_table(stock_run)] == [("ok", "10")] * 2
    assert (Path(stock_run["work_dir"]) / "summary/heatmap_all_now.png").is_file()


def test_a_shard_that_the_stock_evaluator_does_not_miss_is_missing_in_our_table(stock_run):
    """OpenCompass's own evaluator averages what is left of the predictions."""
    tasks = NumWorkerPartitioner(
        out_dir=stock_run["work_dir"] + "/predictions", num_worker=2, min_task_size=1,
        force_rebuild=True,
    )(Config(deepcopy(stock_run)))  # fmt: skip
    for task in tasks:
        OpenICLInferTask(task).run()
    first = stock_run["datasets"][0]["abbr"]
    (Path(stock_run["work_dir"]) / f"predictions/m/{first}_1.json").unlink()
    evaluate(stock_run)
    result = json.loads((Path(stock_run["work_dir"]) / f"results/m/{first}.json").read_text())
    assert "score" in result, "this is the fault that our table is to catch"
    with pytest.raises(SystemExit):
        NeedleSummarizer(stock_run).summarize("now")
    states = {row["dataset"]: (row["status"], row["score"]) for row in read_table(stock_run)}
    assert states[first][0] != "ok"
    assert states[first][1] == ""
    assert [status for name, (status, _) in states.items() if name != first] == ["ok"]
