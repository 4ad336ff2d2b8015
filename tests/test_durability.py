"""What OpenCompass writes is whole or absent, a resumed run heals, damage is said and not shown."""

import errno
import importlib
import json
import os
import random
import shutil
from pathlib import Path

import mmengine
import pytest
from damages import damage_run, judge, make_sealed_run, read_numbers, run_report
from mmengine.config import Config
from opencompass.openicl.icl_inferencer.icl_base_inferencer import (
    BaseInferencer,
    GenInferencerOutputHandler,
    dump_results_dict,
)

from opencompass_llada.cli import main
from opencompass_llada.files import append_line, sealed_line, temporary_name
from opencompass_llada.runs.durability import (
    WRITERS,
    clear_working_folder,
    heal,
    whole_files,
)
from opencompass_llada.runs.exit_status import find_missing
from opencompass_llada.runs.recorded_files import (
    read_answers,
    read_result,
    read_seals,
)
from opencompass_llada.runs.run_folder import read_run

ANSWERS = {str(i): {"origin_prompt": f"a\u2028b\u0085 {i}", "prediction": "x"} for i in range(4)}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run" / "predictions" / "m"
    path.mkdir(parents=True)
    return path


def test_every_writer_in_opencompass_that_a_run_uses_is_known():
    """Those that open a file for writing outside `with` or our list are of other kinds of runs."""
    root = Path(importlib.import_module("opencompass").__file__).parent
    found = set()
    for part in ("cli", "tasks", "partitioners", "openicl/icl_inferencer", "summarizers"):
        for path in sorted((root / part).glob("*.py")):
            if "'w'" in path.read_text(encoding="utf-8"):
                found.add(f"opencompass.{part.replace('/', '.')}.{path.stem}")
    others = {
        "opencompass.tasks.subjective_eval",
        *(f"opencompass.summarizers.{name}" for name in (
            "default_subjective", "multi_faceted", "needlebench", "summarizer_pretrain",
        )),
        "opencompass.openicl.icl_inferencer.icl_gen_inferencer",  # --dump-only-message-path
    }  # fmt: skip
    assert found - others <= set(WRITERS), "a new writer: add it to WRITERS"


@pytest.mark.parametrize("writer", [dump_results_dict, mmengine.dump, Config.dump])
def test_a_full_disk_leaves_the_old_file_or_none(folder, writer, monkeypatch):
    path = folder / ("d.py" if writer is Config.dump else "d.json")
    given = (Config({"models": []}), path) if writer is Config.dump else (ANSWERS, path)

    def is_full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("opencompass_llada.files.settle", is_full)
    for old in (None, b'{"0": {}}'):
        if old is not None:
            path.write_bytes(old)
        with whole_files(), pytest.raises(OSError, match="No space"):
            writer(*given)
        assert (path.read_bytes() if path.exists() else None) == old
        assert sorted(p.name for p in folder.iterdir()) == ([] if old is None else [path.name])


def test_opencompass_is_as_it_was_afterwards(folder):
    before = GenInferencerOutputHandler.write_to_jsonl
    with whole_files(), whole_files():
        dump_results_dict(ANSWERS, folder / "d.json")
    module = importlib.import_module(WRITERS[0])
    assert "open" not in vars(module)
    assert GenInferencerOutputHandler.write_to_jsonl is before
    assert read_answers(folder / "d.json") == (ANSWERS, "")
    assert list(read_seals(folder.parents[1])) == ["predictions/m/d.json"]


def write_unfinished(folder, name="tmp_d.jsonl"):
    handler = GenInferencerOutputHandler()
    with whole_files():
        handler.results_dict = dict(ANSWERS)
        handler.write_to_jsonl(str(folder), name)
    return folder / name


def restore(folder, name="tmp_d.jsonl"):
    with whole_files():
        return GenInferencerOutputHandler().restore_from_jsonl(str(folder), name)


def test_line_separators_in_a_prompt_cost_nothing(folder):
    write_unfinished(folder)
    assert restore(folder) == ANSWERS


def test_a_torn_line_costs_one_sample_and_is_cut_off(folder):
    path = write_unfinished(folder)
    path.write_bytes(path.read_bytes()[:-10])
    kept = {key: ANSWERS[key] for key in "012"}
    assert restore(folder) == kept
    append_line(path, sealed_line({"idx": "3", **ANSWERS["3"]}))
    assert restore(folder) == ANSWERS


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0], lines[2], lines[1], lines[3]],
        lambda lines: [lines[0], lines[0], *lines[1:]],
        lambda lines: [lines[0], lines[1].replace(b'"x"', b'"y"'), *lines[2:]],
        lambda lines: [lines[0], b'{"idx": "1", "prediction": "foreign"}', *lines[2:]],
        lambda lines: [lines[0], b"\xff\xfe", *lines[2:]],
        lambda lines: [lines[0], *lines[2:]],
    ],
    ids=["swapped", "twice", "changed", "unsealed", "bytes", "missing"],
)
def test_answers_after_a_damaged_line_are_made_again(folder, change):
    path = write_unfinished(folder)
    path.write_bytes(b"\n".join(change(path.read_bytes().splitlines())) + b"\n")
    restored = restore(folder)
    assert restored == {key: ANSWERS[key] for key in restored}
    assert 1 <= len(restored) <= 2


# What a kill or a full disk left before files were whole -> what must go.
TORN = {
    "predictions torn": ("predictions/first/{cell}.json", b'{"0": {"orig', True),
    "predictions empty": ("predictions/first/{cell}.json", b"", True),
    "result torn": ("results/first/{cell}.json", b'{"score": 5', False),
    "result empty": ("results/first/{cell}.json", b"", False),
    "config torn": ("configs/20260102_000000_8.py", b"models=[dict(", False),
    "config empty": ("configs/20260102_000000_8.py", b"", False),
    "unfinished beside finished": ("predictions/first/tmp_{cell}.jsonl", b"{", False),
    "set aside by OpenCompass": ("predictions/first/tmp_{cell}.jsonl.bak", b"{", False),
}
CELL = "niah_length1000_depth000"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    return make_sealed_run(tmp_path_factory.mktemp("sealed") / "20260101_000000")


@pytest.fixture
def run(sealed, tmp_path):
    return Path(shutil.copytree(sealed, tmp_path / sealed.name))


@pytest.mark.parametrize("what", TORN)
def test_a_resumed_run_removes_what_is_torn_and_what_hangs_on_it(run, what):
    place, content, with_result = TORN[what]
    path = run / place.format(cell=CELL)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p != path}
    path.write_bytes(content)
    heal(run, makes_predictions=True)
    assert not path.exists()
    gone = {run / f"results/first/{CELL}.json"} if with_result else set()
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert after == {p: text for p, text in before.items() if p not in gone}
    assert heal(run, makes_predictions=True) == []


def test_a_whole_run_is_left_as_it_is(run):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert heal(run, makes_predictions=True) == []
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_left_overs_of_dead_processes_go(run, tmp_path, monkeypatch):
    dead = temporary_name("x.json").replace(f"~{os.getpid()}~", "~999999999~")
    (run / "predictions" / "first" / dead).write_text("{")
    heal(run, makes_predictions=True)
    assert not (run / "predictions" / "first" / dead).exists()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    with whole_files():
        Config({"models": []}).dump("tmp/own_params.py")
        Config({"models": []}).dump("tmp/dead_params.py")
    text = Path("tmp/dead_params.py").read_text()
    Path("tmp/dead_params.py").write_text(text.replace(f'"pid": {os.getpid()}', '"pid": 99999999'))
    Path("tmp/foreign_params.py").write_text("models = []\n")
    (tmp_path / ".cache").mkdir()
    Path(".cache/dataset_size.json").write_text('{"a": 1')
    clear_working_folder(tmp_path)
    assert sorted(os.listdir("tmp")) == ["foreign_params.py", "own_params.py"]
    assert os.listdir(".cache") == []
    assert Config.fromfile("tmp/own_params.py").models == []
    clear_working_folder(tmp_path, with_own=True)
    assert sorted(os.listdir("tmp")) == ["foreign_params.py"]


def test_a_result_beside_other_predictions_is_none(run):
    path = run / "predictions" / "first" / f"{CELL}.json"
    answers = json.loads(path.read_text())
    answers["0"]["prediction"] = "made again by another model"
    with whole_files():
        dump_results_dict(answers, path)
    assert read_answers(path)[1] == ""
    content, fault = read_result(run / "results" / "first" / f"{CELL}.json")
    assert content == {}
    assert "not made of the predictions beside it" in fault
    cfg = read_run(run).as_config()
    (missing,) = find_missing(cfg, run, ("results",))
    assert missing.dataset == CELL
    heal(run, makes_predictions=True)
    assert path.exists()
    assert not (run / "results" / "first" / f"{CELL}.json").exists()


def test_no_single_damage_gives_a_wrong_number_or_a_traceback(sealed, tmp_path):
    right = read_numbers(sealed)
    assert len(right) > 40
    cases = list(damage_run(sealed))
    assert len(cases) >= 160
    wrong = []
    for name, damage in random.Random(0).sample(cases, 70):
        copy = tmp_path / "copy" / sealed.name
        shutil.copytree(sealed, copy)
        damage(copy)
        verdict, cells = judge(copy, right)
        if verdict == "wrong":
            wrong.append((name, cells))
        shutil.rmtree(copy)
    assert wrong == []


@pytest.mark.parametrize(
    "place",
    [
        f"predictions/first/{CELL}.json",
        f"results/first/{CELL}.json",
        "configs/20260101_000000_7.py",
    ],
)
def test_the_report_names_the_damaged_file_and_exits_1(run, tmp_path, place):
    path = run / place
    path.write_bytes(path.read_bytes()[:-40] + b"\xff")
    status, said = run_report(run, tmp_path / "report")
    assert status == 1
    assert str(path) in said
    board = (tmp_path / "report" / "leaderboard.md").read_text()
    assert path.name in board.replace("\\", "")
    assert main(["watch", "--once", str(run)]) == 0


def test_inferencers_make_no_folder_in_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BaseInferencer(model=None)
    assert os.listdir() == ["icl_inference_output"], "OpenCompass's own does"
    os.rmdir("icl_inference_output")
    with whole_files():
        BaseInferencer(model=None)
        assert not os.listdir()
        BaseInferencer(model=None, output_json_filepath="asked/for")
    assert Path("asked/for").is_dir()
