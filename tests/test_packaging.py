"""The package used through OpenCompass from a checkout, the built wheel and an editable install."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging_runs import (
    TREES,
    copy_checkout,
    hide_editable_install,
    only_run,
    read_predictions,
    run_python,
    write_job,
)
from safetensors.torch import load_file, save_file
from tiny import write_tiny_checkpoint

from opencompass_llada import __version__

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(repository_root, tmp_path_factory):
    return copy_checkout(repository_root, tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def blocker(tmp_path_factory):
    return hide_editable_install(tmp_path_factory.mktemp("hidden") / "path")


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    build = subprocess.run([*command, "-w", out, checkout], capture_output=True, text=True)
    assert build.returncode == 0, build.stderr[-3000:]
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed") / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([*command, "--target", target, wheel], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def test_the_wheel_holds_every_source_file_once_and_nothing_generic(wheel, repository_root):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    assert {name.split("/")[0] for name in names} == {
        "opencompass_llada",
        f"opencompass_llada-{__version__}.dist-info",
    }
    expected = set()
    for tree in TREES:
        prefix = "" if tree == "opencompass_llada" else "opencompass_llada/"
        for path in (repository_root / tree).rglob("*"):
            kept = path.suffix in {
                *(".py", ".json", ".jsonl", ".safetensors", ".yaml"),
                *(".html", ".css", ".js", ".csv"),
            }
            if kept and path.is_file() and "__pycache__" not in path.parts:
                expected.add(f"{prefix}{path.relative_to(repository_root).as_posix()}")
    assert expected - set(names) == set()


@pytest.mark.timeout(300)
def test_checkout_run_reports_what_failed_and_exits_with_1(checkout, blocker, checkpoint, tmp_path):
    broken = write_tiny_checkpoint(tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.transformer.ln_f.weight"].fill_(float("nan"))  # no check before the run sees it
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    models = {"good": checkpoint, "broken": broken}
    job = write_job(checkout / "configs" / "job.py", models=models, configs="")
    run = run_python(
        [str(checkout / "run.py"), str(job), "-w", "out"], cwd=tmp_path / "cwd", path=[blocker]
    )
    text = run.stdout + run.stderr
    assert run.returncode == 1, text[-3000:]
    results = only_run(tmp_path / "cwd" / "out")
    assert set(read_predictions(results)) == {"good/toy_one", "good/toy_two"}
    assert (results / "results" / "good" / "toy_two.json").is_file()
    summary = text[text.index("2 (model, data set) pairs have no result") :]
    assert "broken on toy_one: no predictions were written" in summary
    assert str(results.name) in summary, "the log file is named"
    assert "there is a NaN or an infinity in model.transformer.ln_f" in summary, (
        "the task's last error is quoted"
    )
    assert "good on" not in summary
    log = (results / "logs" / "infer" / "good" / "toy_one.out").read_text()
    assert "RoPE scaling diffusion_ntk" in log
    assert "6 prompts" in log, "totals are logged at the end"


@pytest.mark.timeout(300)
def test_wheel_run_and_its_repetition_from_the_dumped_config(
    installed, blocker, checkpoint, tmp_path
):
    job = write_job(tmp_path / "job.py", models={"tiny": checkpoint})
    cwd = tmp_path / "cwd"
    main = ["-m", "opencompass.cli.main"]
    first = run_python([*main, str(job), "-w", "first"], cwd=cwd, path=[installed, blocker])
    assert first.returncode == 0, (first.stdout + first.stderr)[-3000:]
    results = only_run(cwd / "first")
    answers = read_predictions(results)
    assert set(answers) == {"tiny/toy_one", "tiny/toy_two"}
    assert len({answer for group in answers.values() for answer in group}) == 6
    (dumped,) = (results / "configs").glob("*.py")
    assert "opencompass_llada.wrapper.LLaDACausalLM" in dumped.read_text()
    # Again from what was dumped, in one process, from the editable install or the checkout.
    again = run_python(
        ["-m", "opencompass_llada.runs.launch", str(dumped), "-w", "again", "--debug"],
        cwd=cwd,
        path=[],
    )
    assert again.returncode == 0, (again.stdout + again.stderr)[-3000:]
    assert read_predictions(only_run(cwd / "again")) == answers


@pytest.mark.timeout(200)
def test_the_doctor_is_a_command_that_works_from_any_folder(installed, blocker, tmp_path):
    script = str(installed / "bin" / "opencompass-llada")
    config = str(installed / "opencompass_llada" / "configs" / "eval_llada_niah.py")
    run = run_python(
        [script, "doctor", "--config", config], cwd=tmp_path / "cwd", path=[installed, blocker]
    )
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    for line in ("ok     packages", "ok     config", "ok     checkpoint"):
        assert line in run.stdout
    run = run_python([script, "doctr"], cwd=tmp_path / "cwd", path=[installed, blocker])
    assert run.returncode == 2
    assert "doctor" in run.stderr


@pytest.mark.timeout(120)
def test_a_fault_of_the_config_is_said_before_anything_runs(checkout, blocker, tmp_path):
    job = write_job(checkout / "configs" / "faulty.py", models={"x": tmp_path / "no"}, configs="")
    run = run_python(
        [str(checkout / "run.py"), str(job), "-w", "out"], cwd=tmp_path / "cwd", path=[blocker]
    )
    assert run.returncode == 1
    assert "Nothing was run. model 'x': " in run.stderr
    assert "neither an existing folder nor a hub id" in run.stderr
    assert not (tmp_path / "cwd" / "out").exists()


def test_absolute_and_relative_read_base_work_in_a_checkout_and_the_wheel(
    checkout, installed, blocker, tmp_path
):
    config = tmp_path / "absolute.py"
    config.write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from opencompass_llada.configs.helpers.planning import count_gpus as __count\n"
        "n = __count()\n"
    )
    script = (
        "import sys, opencompass_llada; from mmengine.config import Config;"
        "print(opencompass_llada.__file__); Config.fromfile(sys.argv[1]).n + 0"
    )
    for source in (checkout, installed):
        run = run_python(["-c", script, str(config)], cwd=tmp_path, path=[source, blocker])
        assert run.returncode == 0, run.stderr[-2000:]
        assert run.stdout.startswith(str(source)), "the package must come from there"


def test_version_and_licence_are_the_same_everywhere(repository_root):
    import yaml

    import opencompass_llada

    cited = yaml.safe_load((repository_root / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == opencompass_llada.__version__
    assert cited["license"] == "Apache-2.0"
    assert "Apache License" in (repository_root / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.timeout(900)
def test_ten_lines_from_the_wheel_by_run_and_by_plain_opencompass(
    installed, blocker, repository_root, tmp_path, monkeypatch
):
    """An own checkpoint on a shipped benchmark and OpenCompass's GSM8K, in one table."""
    row = {"question": "What is 2 and 3?", "answer": "2+3=5\n#### 5"}
    for name in ("train", "test"):
        file = tmp_path / "cache" / "data" / "gsm8k" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(row) + "\n")
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path / "cache"))
    shutil.copytree(repository_root / "opencompass_llada/assets/tiny-llada", tmp_path / "my-llada")
    cwd, path = tmp_path / "cwd", [installed, blocker]
    script = str(installed / "bin" / "opencompass-llada")
    words = ["--model", "../my-llada", "--lengths", "256", "--data", "embedded"]
    made = run_python(
        [script, "new-config", *words, "--datasets", "gsm8k_0shot_nocot_gen_6cbf22"],
        cwd=cwd,
        path=path,
    )
    assert made.returncode == 0, made.stderr
    assert 10 <= len(made.stdout.splitlines()) <= 20

    short = "for __cell in __gsm8k_0shot_nocot_gen_6cbf22:\n"
    short += "    __cell['infer_cfg']['inferencer']['max_out_len'] = 16\n"
    text = made.stdout.replace("__run = ", f"{short}__run = ", 1)
    text = text.replace("    datasets=", "    options=dict(niah=dict(depths=[0])),\n    datasets=")
    (cwd / "my.py").write_text(text)
    tables = []
    for program in ([script, "run"], ["-m", "opencompass.cli.main"]):
        out = f"out{len(tables)}"
        run = run_python([*program, "my.py", "-w", out], cwd=cwd, path=path)
        assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
        assert "GSM8K" in run.stdout + run.stderr
        results = only_run(cwd / out)
        assert {file.name for file in (results / "results" / "my-llada").glob("*.json")} == {
            "gsm8k.json",
            f"{next((results / 'results' / 'my-llada').glob('niah*.json')).name}",
        }
        assert len(list((results / "logs" / "eval").rglob("*.out"))) == 1, "one process scores all"
        board = (results / "report" / "tables" / "leaderboard.csv").read_text()
        assert "my-llada" in board
        assert "gsm8k" in board.lower()
        costs = (results / "report" / "tables" / "cost.csv").read_text()
        assert "my-llada" in costs
        tables.append(board)
    assert tables[0] == tables[1]
