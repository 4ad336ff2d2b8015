"""The checks around OpenCompass's command line, with its main() replaced by a stand-in."""

import argparse
import importlib
import json
import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from opencompass_llada.runs import cluster, shared_data_sets
from opencompass_llada.runs import launch as launch_module


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Return a function that launches with a stand-in for OpenCompass and given leftovers."""
    main_module = importlib.import_module("opencompass.cli.main")
    config = {
        "models": [{"abbr": "m", "type": "opencompass.models.HuggingFaceBaseModel"}],
        "datasets": [
            {
                "abbr": "d",
                "type": "opencompass.datasets.JsonlDataset",
                "path": "x",
                "reader_cfg": {"input_columns": ["prompt"], "output_column": None},
                "infer_cfg": {
                    "prompt_template": {"type": "PromptTemplate"},
                    "retriever": {"type": "ZeroRetriever"},
                    "inferencer": {"type": "opencompass.openicl.icl_inferencer.GenInferencer"},
                },
                "eval_cfg": {"evaluator": {"type": "AccEvaluator"}},
            }  # fmt: skip
        ],
        "work_dir": str(tmp_path),
    }

    def start(*, mode="all", stages=(), dry_run=False, error=None, file=None, **flags):
        arguments = argparse.Namespace(
            config=file,
            mode=mode,
            dry_run=dry_run,
            dump_only_message_path=None,
            slurm=False,
            dlc=False,
            debug=False,
            work_dir=None,
        )
        vars(arguments).update(flags)

        def main():
            assert main_module.parse_args() is arguments
            cfg = main_module.get_config_from_arg(arguments)
            cfg["work_dir"] = str(tmp_path / "20260101_000000")
            for stage in stages:
                folder = tmp_path / "20260101_000000" / stage / "m"
                folder.mkdir(parents=True, exist_ok=True)
                content = {"results": {"score": 1.0}, "predictions": {"0": {"prediction": "x"}}}
                (folder / "d.json").write_text(json.dumps(content[stage]))
            if error is not None:
                raise error

        original = lambda _: config  # noqa: E731
        monkeypatch.setattr(main_module, "get_config_from_arg", original)
        monkeypatch.setattr(main_module, "main", main)
        monkeypatch.setattr(launch_module, "parse_arguments", lambda: arguments)
        try:
            return launch_module.launch()
        finally:
            assert main_module.get_config_from_arg is original, "OpenCompass must be left as it was"

    return start


@pytest.mark.parametrize(
    ("mode", "stages", "status"),
    [
        ("all", ("predictions", "results"), 0),
        ("all", ("predictions",), 1),
        ("all", (), 1),
        ("infer", ("predictions",), 0),
        ("infer", (), 1),
        ("eval", ("results",), 0),
        ("viz", (), 1),
    ],
)
def test_each_mode_must_leave_what_it_makes(host, mode, stages, status):
    assert host(mode=mode, stages=stages) == status


def test_a_config_file_that_is_not_there_is_named_with_the_nearest(host, tmp_path):
    (tmp_path / "eval_this.py").write_text("")
    with pytest.raises(
        SystemExit, match=r"Nothing was run.*eval_thsi\.py'. Did you mean .*eval_this"
    ):
        host(file=str(tmp_path / "eval_thsi.py"))


def test_a_dry_run_leaves_nothing(host):
    assert host(dry_run=True) == 0


def test_a_tasks_error_ends_in_a_paragraph_after_the_report(host, caplog, capsys, tmp_path):
    assert host(error=KeyError("from a task")) == 1
    assert "m on d: no predictions were written" in caplog.text
    text = capsys.readouterr().err
    assert "this is a bug in opencompass_llada, please report: KeyError: 'from a task'" in text
    assert "Traceback" not in text
    (log,) = (tmp_path / "20260101_000000" / "logs").glob("fault_*.log")
    assert str(log) in text
    assert "Traceback" in log.read_text()


def test_a_summarizers_exit_status_is_kept_and_not_repeated(host, caplog):
    with pytest.raises(SystemExit) as stop:
        host(error=SystemExit(1))
    assert stop.value.code == 1
    assert "no predictions" not in caplog.text


def test_gpu_ids_become_indices_before_opencompass_reads_them(host, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    lines = ["GPU 0: X (UUID: GPU-a1)", "GPU 1: X (UUID: GPU-b1)"]
    monkeypatch.setattr(launch_module, "list_gpus", lambda: lines)
    host(dry_run=True)
    assert launch_module.os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert launch_module.os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_what_tasks_are_told_is_not_formatted_and_reads_back(tmp_path, monkeypatch):
    """Formatting is left out: it takes longer than tiny models on the same cells."""
    told = {"models": [{"abbr": "m", "path": "it's\n'here'"}], "sizes": {"a-b": (1, 2.5, None)}}
    path = tmp_path / "params.py"
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatTree", None)
    with launch_module._unformatted_configs():
        Config(told).dump(path)
    assert Config.fromfile(path)._cfg_dict.to_dict() == told


@pytest.mark.parametrize(
    ("given", "imports"),
    [({}, 1), ({"debug": True}, 0), ({"slurm": True}, 0), ({"dry_run": True}, 0)],
    ids=str,
)
def test_tasks_imports_are_shared_where_tasks_are_processes_here(host, given, imports, monkeypatch):
    asked = []
    monkeypatch.setattr(launch_module, "imports_shared", lambda: asked.append(1) or nullcontext())
    host(stages=("predictions", "results"), **given)
    assert len(asked) == imports


def test_both_stages_of_a_run_in_one_process_share_its_data_sets(host, monkeypatch):
    built = []

    def build_twice(run):
        config = {"type": "opencompass_llada.benchmarks.needle.NeedleDataset"}
        for _ in range(2):
            with shared_data_sets.sharing_data_sets():  # as the runner of each stage
                shared_data_sets.build_shared(config, lambda _: built.append(1) or data_set)
        return 0

    data_set = SimpleNamespace(reader=SimpleNamespace(dataset=None))
    monkeypatch.setattr(launch_module, "_report_missing", build_twice)
    assert host(debug=True) == 0
    assert len(built) == 1


def test_warnings_of_opencompass_that_do_not_hold_here_are_dropped():
    def keeps(text):
        return cluster.is_so(logging.LogRecord("OC", 30, "", 0, text, (), None))

    assert not keeps("SlurmRunner is not used, so the partition argument is ignored.")
    assert not keeps('You have set "infer" in the config, but also specified --slurm or --dlc.')
    assert keeps("Partitioned into 2 tasks.")
