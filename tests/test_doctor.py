"""The doctor: what it finds, what it calls a fault, and that it changes nothing."""

import json
import shutil

import pytest
from mmengine.config import Config
from needle_data import write_needlebench
from tiny import write_tiny_checkpoint

from opencompass_llada import cli
from opencompass_llada.benchmarks import counting
from opencompass_llada.benchmarks.benchmark import all_data_files
from opencompass_llada.benchmarks.counting import TiktokenTokenizer
from opencompass_llada.benchmarks.data_files import MissingDataError
from opencompass_llada.runs import command_line, doctor
from opencompass_llada.runs.doctor import Finding, write_report
from opencompass_llada.runs.machine import EnvironmentFault
from opencompass_llada.runs.recorded_files import WRAPPER


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in ("COMPASS_DATA_CACHE", "TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR",
                 "DATASET_SOURCE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "OPENCOMPASS_CACHE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)


def one(findings):
    (finding,) = findings
    return finding


def test_a_machine_without_data_is_no_fault_unless_data_is_asked_for(capsys):
    assert cli.main(["doctor"]) == 0
    report = capsys.readouterr().out
    for topic in ("packages", "GPU", "attention", "needlebench", "ruler", "longbench", "tiktoken"):
        assert topic in report
    assert cli.main(["doctor", "--data", "needlebench"]) == 1
    report = capsys.readouterr().out
    assert "FAULT  needlebench" in report
    assert "hf download opencompass/needlebench" in report
    assert cli.main(["doctor", "--data", "needlebnch"]) == 2
    assert "Did you mean 'needlebench'" in capsys.readouterr().err


def test_real_data_is_found(real_data_root, monkeypatch, capsys):
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(real_data_root))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(real_data_root / "data/tiktoken"))
    assert cli.main(["doctor", "--data", "needlebench,ruler,longbench"]) == 0
    assert "note   tiktoken" not in capsys.readouterr().out


def test_a_file_that_is_missing_from_a_folder_is_named(tmp_path):
    folder = write_needlebench(tmp_path / "needles")
    found = doctor.check_files("needlebench", str(folder), ["needles.jsonl"], asked=True)
    assert found.level == "ok"
    found = doctor.check_files(
        "needlebench", str(folder), ["needles.jsonl", "zh_tech.jsonl"], asked=True
    )
    assert (found.level, "zh_tech.jsonl" in found.text) == ("fault", True)
    assert "needles.jsonl" not in found.text


def test_a_damaged_tiktoken_file_is_found_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert doctor.check_tiktoken(asked=True).level == "fetch"
    assert doctor.check_tiktoken(asked=False).level == "note"
    path = counting.tiktoken_path()
    path.write_text("half of it")
    found = doctor.check_tiktoken(asked=False)
    assert found.level == "fault"
    assert str(path) in found.text
    with pytest.raises(MissingDataError, match="would delete it"):
        TiktokenTokenizer("gpt-4")
    assert path.read_text() == "half of it", "nobody may delete it"


def test_the_right_tiktoken_file_is_known(real_data_root, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(real_data_root / "data/tiktoken"))
    assert counting.tiktoken_state() == "present"


def test_checkpoints_are_checked_by_their_headers(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "good")
    assert doctor.check_checkpoint(str(folder)).level == "ok"
    assert doctor.check_checkpoint("asset:tiny-llada").level == "ok"
    assert doctor.check_checkpoint("nobody/not-downloaded").level == "fetch"
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    found = doctor.check_checkpoint(str(folder))
    assert found.level == "fault"
    command = f"hf download ORGANISATION/NAME --local-dir {folder}"
    assert found.remedy == f"{command}   # Download it again."
    assert doctor.check_checkpoint(str(tmp_path / "absent")).level == "fault"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "other"}))
    assert doctor.check_checkpoint(str(folder)).level == "ok", "others' formats are not judged"


def test_every_backend_is_really_run(monkeypatch):
    found = one(doctor.check_attention())
    assert "auto" in found.text
    assert "sdpa_math" in found.text
    asked = list(doctor.check_attention(frozenset({"flash_attn"})))
    assert asked[-1].level == "fault" or "flash_attn" in asked[0].text.split(";")[0]
    monkeypatch.setattr(
        "torch.nn.functional.scaled_dot_product_attention", lambda q, k, v, **_: v.roll(1, 2)
    )
    assert "off by" in doctor.try_backend("auto", "cpu")


def test_packages_that_fit_name_what_is_held_back():
    found = doctor.check_packages(None)
    assert found.level == "ok"
    assert "is kept below 26, which needs numpy 2" in found.text


def test_package_faults_carry_the_pip_command(monkeypatch):
    def fail(requirements):
        raise EnvironmentFault("numpy 2.0 does not fit <2. Install what fits: pip install 'numpy'")

    monkeypatch.setattr(doctor, "check_environment", fail)
    found = doctor.check_packages(None)
    assert (found.level, found.remedy) == ("fault", "pip install 'numpy'")
    topics = [finding.topic for finding in doctor.examine(None, [], doctor.Path())]
    assert topics == ["packages", "disk"], "the rest needs the packages"


def test_little_disk_space_is_said(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    for free, level in ((10, "fault"), (2**30, "note"), (2**40, "ok")):
        monkeypatch.setattr(
            doctor.shutil, "disk_usage", lambda path, f=free: usage._replace(free=f)
        )
        assert doctor.check_disk(tmp_path / "not" / "there").level == level


def test_a_gpu_that_torch_cannot_use_is_a_fault(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(doctor, "list_gpus", lambda: ["GPU 0: X"])
    assert doctor.check_gpu().level == "fault"
    monkeypatch.setattr(doctor, "list_gpus", list)
    assert doctor.check_gpu().level == "note"


def small_config(checkpoint, folder, **dataset):
    return Config(
        dict(
            models=[dict(type=WRAPPER, abbr="m", path=str(checkpoint), run_cfg=dict(num_gpus=0))],
            datasets=[
                dict(
                    type="opencompass_llada.benchmarks.needle.dataset.NeedleBenchSingleDataset",
                    abbr="d",
                    path=str(folder),
                    file_list=["synthetic_en.jsonl"],
                    needle_file_name="needles.jsonl",
                    tokenizer=str(checkpoint),
                    length=600,
                    depth=50,
                    num_repeats_per_file=1,
                    length_buffer="fit",
                    guide=False,
                    language="English",
                    infer_cfg=dict(inferencer=dict(max_out_len=8)),
                    **dataset,
                )
            ],
        )
    )


def test_a_run_is_refused_for_what_its_config_needs_and_lacks(tmp_path, monkeypatch):
    checkpoint = write_tiny_checkpoint(tmp_path / "model")
    folder = write_needlebench(tmp_path / "needles")
    cfg = small_config(checkpoint, folder)
    doctor.check_config(cfg, runs_locally=True)
    (folder / "needles.jsonl").unlink()
    with pytest.raises(ValueError, match=r"needlebench: lacks needles\.jsonl.*Fix it"):
        doctor.check_config(cfg, runs_locally=True)
    cfg = small_config(checkpoint, write_needlebench(tmp_path / "other"))
    cfg.datasets[0]["tokenizer"] = "gpt-4"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    counting.tiktoken_path().write_text("x")
    with pytest.raises(ValueError, match="tiktoken: .*would delete it"):
        doctor.check_config(cfg, runs_locally=True)


def test_the_doctor_reads_a_config(tmp_path, capsys, repository_root, monkeypatch):
    assert cli.main(["doctor", "--config", "nowhere.py"]) == 1
    assert "no config file 'nowhere.py'" in capsys.readouterr().err
    niah = str(repository_root / "configs/eval_llada_niah.py")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("LENGTHS", "MODELS", "DATA", "SCALING"):
        monkeypatch.delenv(f"LLADA_{name}", raising=False)
    assert cli.main(["doctor", "--config", niah]) == 0
    report = capsys.readouterr().out
    assert "ok     config" in report
    assert "headers fit" in report
    monkeypatch.setenv("LLADA_SCALING", "nkt")
    assert cli.main(["doctor", "--config", niah]) == 1
    assert "Did you mean 'ntk'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "data_name", "command"),
    [
        ("niah", "needlebench", "hf download opencompass/needlebench --repo-type dataset"),
        ("ruler", "ruler", "get('data/ruler/hotpotqa.json', local_mode=True)"),
        ("long", "longbench", "hf download THUDM/LongBench data.zip"),
    ],
)
def test_a_config_without_its_data_gets_the_command_that_fetches_it(
    config, data_name, command, capsys, repository_root, monkeypatch, tmp_path
):
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    monkeypatch.setenv("LLADA_DATA", data_name)
    monkeypatch.setattr(
        "opencompass.utils.get_data_path", lambda *given, **options: str(tmp_path / "absent")
    )
    path = str(repository_root / f"configs/eval_llada_{config}.py")
    assert cli.main(["doctor", "--config", path]) == 1
    lines = capsys.readouterr().out.splitlines()
    (fault,) = [number for number, line in enumerate(lines) if line.startswith("FAULT  config")]
    assert command in lines[fault + 1]


def test_a_config_without_tiktokens_file_gets_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    counting.tiktoken_path().write_text("half of it")
    path = tmp_path / "c.py"
    path.write_text("")
    error = MissingDataError("no file", "tiktoken")
    monkeypatch.setattr(command_line, "read_config", lambda path: (_ for _ in ()).throw(error))
    assert cli.main(["doctor", "--config", str(path)]) == 1
    report = capsys.readouterr().out
    assert "-> copy" in report.split("FAULT  config")[1]


def needed_files(dataset, kind):
    """Return what a data set config of a dotted class reads: topic, path and file names."""
    return [
        (topic, path, names)
        for topic, own in all_data_files().items()
        for path, names in own.needed(dataset, kind)
    ]


def test_stock_data_sets_are_known_too():
    stock = dict(path="opencompass/needlebench", file_list=["PaulGrahamEssays.jsonl"],
                 needle_file_name="needles.jsonl")  # fmt: skip
    for kind in ("needlebench.origin", "needlebench_v2.origin"):
        found = one(needed_files(stock, f"opencompass.datasets.{kind}.X"))
        assert found[0] == "needlebench"
        assert found[2] == ["PaulGrahamEssays.jsonl", "needles.jsonl"]
    texts = "opencompass_llada.benchmarks.perplexity.samples.PerplexityDataset"
    assert one(needed_files({"path": "a/b.txt"}, texts)) == ("perplexity", "a", ["b.txt"])
    assert needed_files({"path": "generated"}, texts) == []
    ruler = "opencompass_llada.benchmarks.ruler.dataset.RulerDataset"
    assert needed_files({"task": "vt"}, ruler) == []
    assert one(needed_files({"task": "qa_squad"}, ruler))[2] == ["dev-v2.0.json"]


def test_the_report_lines_up_and_counts():
    text = write_report(
        [
            Finding(topic="a", level="ok", text="fine"),
            Finding(topic="long", level="fault", text="broken", remedy="mend it"),
        ]
    )
    assert text.splitlines() == [
        "ok     a     fine",
        "FAULT  long  broken",
        "             -> mend it",
        "1 faults",
    ]
