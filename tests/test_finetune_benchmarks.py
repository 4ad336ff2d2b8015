"""The benchmarks of fine-tuning run at toy size, so that a device call does not find a slip."""

import json
import runpy
import subprocess
import sys

import pytest

ENVIRONMENT = {"PATH": "", "OMP_NUM_THREADS": "1", "OPENCOMPASS_LLADA_CACHE": "none"}


def run(repository_root, script, *arguments):
    return subprocess.run(
        [sys.executable, f"benchmarks/{script}", "--tiny", *arguments],
        cwd=repository_root,
        env={**ENVIRONMENT, "PYTHONPATH": str(repository_root)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def run_again(repository_root, monkeypatch):
    """Return what runs a script in this process, whose start and imports another test has."""

    def run_here(script, *arguments):
        folder = repository_root / "benchmarks"
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        monkeypatch.setattr(sys, "argv", [f"benchmarks/{script}", *map(str, arguments)])
        runpy.run_path(str(folder / script), run_name="__main__")

    return run_here


def test_speed_states_plan_and_measurement(repository_root, tmp_path):
    pytest.importorskip("peft")
    record = tmp_path / "record.json"
    cases = ("adaptive_64k", "direct_64k", "full_bf16_32k", "lora_32k_float8_mlp_kept")
    done = run(repository_root, "finetune_speed.py", "--cases", *cases, "--record", str(record))
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(record.read_text())["rows"]
    assert [row["case"] for row in rows] == list(cases)
    assert all(row["tokens_per_second"] > 0 and row["planned_gb"] > 0 for row in rows)
    assert [row["document"] for row in rows] == [64, 64, 128, 128]
    assert all(case in done.stdout for case in cases)


def test_optimizer_step_measures_bytes_and_ratios(repository_root, tmp_path):
    record = tmp_path / "record.json"
    kinds = (
        "float32, fused",
        *(f"bfloat16, moments {m}, not compiled" for m in ("float32", "8bit")),
    )
    options = ["--kinds", *kinds, "--record", str(record), "--steps", "1"]
    done = run(repository_root, "optimizer_step.py", *options)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(record.read_text())["rows"]
    sizes = [row["held_bytes_a_weight"] for row in rows]
    assert sizes == pytest.approx([16, 14, 8], rel=0.02)
    assert [row["kind"] for row in rows] == list(kinds)
    assert rows[0]["time_ratio"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", ["updates", "runs", "frozen"])
def test_low_precision_compares_with_float32(repository_root, tmp_path, what, run_again):
    if what == "frozen":
        pytest.importorskip("peft")
    record, kind = tmp_path / "record.json", "bfloat16, moments float32"
    options = [what, "--steps", "2", "--length", "64", "--seeds", "2", "--kinds", kind]
    options += ["--record", str(record)]
    if what == "updates":
        done = subprocess.run(
            [sys.executable, "benchmarks/low_precision.py", *options],
            cwd=repository_root,
            env={**ENVIRONMENT, "PYTHONPATH": str(repository_root)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    else:
        run_again("low_precision.py", *options)
    first, second = json.loads(record.read_text())["rows"]
    kinds = ("unrounded", "float8") if what == "frozen" else ("float32", kind)
    assert (first["kind"], second["kind"]) == kinds
    if what == "updates":
        assert first["exact"]["projection"] == pytest.approx(1)
        assert second["exact"]["projection"] == pytest.approx(1, abs=0.05)
    else:
        assert first["largest_difference"] == 0
        assert second["largest_difference"] < 0.05


@pytest.mark.slow
def test_long_rows_on_two_and_on_four_processes(repository_root, tmp_path, run_again):
    """Two cases of two processes side by side, then one of four, then one that lacks the time."""
    cases = ["256k_on_2", "512k_documents_on_2", "512k_on_4_offload", "512k_on_2"]
    record, folder = tmp_path / "record.json", tmp_path / "rows"
    options = ["--record", str(record), "--folder", str(folder), "--port", "29810"]
    done = run(repository_root, "finetune_long_rows.py", *options, "--cases", *cases[:3])
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(record.read_text())["rows"]
    assert [row["case"] for row in rows] == cases[:3]
    logs = "".join(file.read_text() for file in folder.glob("*.log"))
    assert all("seconds_a_step" in row for row in rows), logs[-2000:]
    assert [row["processes"] for row in rows] == [2, 2, 4]
    for row in rows:
        assert row["host_gb"] == pytest.approx(row["planned_host_gb"])
        assert max(row["attention"]["errors"].values()) < 1e-5
    late = tmp_path / "late.json"
    options = ["--tiny", "--record", late, "--folder", folder, "--seconds", "5"]
    run_again("finetune_long_rows.py", *options, "--cases", cases[3], cases[0])
    assert all("not started" in row["problem"] for row in json.loads(late.read_text())["rows"])
    # Rows with a step win over plans, in the order of the cases.
    merged = tmp_path / "merged.json"
    run_again("finetune_long_rows.py", "--record", merged, "--merge", late, record)
    found = json.loads(merged.read_text())
    assert ["seconds_a_step" in row for row in found["rows"]] == [True, True, False, True]
    assert len(found["command"]) == 2


def test_ruler_of_a_checkpoint(repository_root, tmp_path, run_again):
    record, scaled = tmp_path / "ruler.json", tmp_path / "scaled.json"
    options = ["asset:tiny-llada", "--lengths", "512", "--samples", "1", "--workers", "1"]
    options += ["--prompts", str(tmp_path), "--record"]
    done = subprocess.run(
        [sys.executable, "benchmarks/ruler_grid.py", *options, str(record)],
        cwd=repository_root,
        env={**ENVIRONMENT, "PYTHONPATH": str(repository_root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run_again("ruler_grid.py", *options, scaled, "--scaling", "diffusion_ntk", "2048")
    found = [json.loads(file.read_text()) for file in (record, scaled)]
    chosen = {"type": "diffusion_ntk", "target_length": 2048}
    assert [one["scaling"] for one in found] == [None, chosen]
    for one in found:
        scores = one["ruler"]["512"]
        assert scores["niah_single_1"] == 100.0
        assert len(scores) == 11  # without question answering
