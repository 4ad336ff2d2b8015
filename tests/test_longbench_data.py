"""Reading LongBench: published files, broken ones, the sample set."""

import json
import zipfile
from pathlib import Path

import pytest
from opencompass.openicl.icl_prompt_template import PromptTemplate

from opencompass_llada.assets import resolve_asset
from opencompass_llada.benchmarks import data_files
from opencompass_llada.benchmarks.data_files import MissingDataError
from opencompass_llada.benchmarks.longbench.dataset import LongBenchDataset
from opencompass_llada.benchmarks.longbench.facts import LONGBENCH_E_TASKS, PROMPTS, TASKS
from opencompass_llada.benchmarks.opencompass_bases import LiteralPromptTemplate
from opencompass_llada.synthetic.embedded import MAKERS, V2_FILE, make_row, write_samples

ROW = {
    "input": "Who?",
    "context": "A text.",
    "answers": ["one", "two"],
    "length": 4,
    "dataset": "x",
    "language": "en",
    "all_classes": ["one", "two", "three"],
    "_id": "1",
}


def write_rows(folder, name, rows):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    path = folder / "data" / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_opencompasss_own_template_would_fill_in_a_programs_braces():
    sample = {"prompt": "print(f'{idx}')", "idx": 7}
    assert PromptTemplate(template="{prompt}").generate_item(sample) == "print(f'7')"
    assert LiteralPromptTemplate(chat=False).generate_item(sample) == "print(f'{idx}')"


def test_rows_keep_their_answers_classes_and_separators(tmp_path):
    strange = "a\u2028b\u0085c\r\nd"
    write_rows(tmp_path, "trec", [{**ROW, "context": strange}, ROW])
    first, second = LongBenchDataset.load(path=str(tmp_path), task="trec")
    assert strange in first["prompt"]
    assert second["answers"] == ["one", "two"]
    assert second["all_classes"] == ["one", "two", "three"]
    assert second["length"] == 4


def test_the_hubs_archive_is_read_as_it_is(tmp_path):
    path = write_rows(tmp_path / "unpacked", "hotpotqa_e", [ROW])
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.write(path, "data/hotpotqa_e.jsonl")
    options = dict(task="hotpotqa", benchmark="longbench_e")
    from_archive = LongBenchDataset.load(path=str(tmp_path), **options)
    unpacked = LongBenchDataset.load(path=str(tmp_path / "unpacked"), **options)
    assert from_archive[:] == unpacked[:]


def test_a_half_written_file_is_named_with_its_line(tmp_path):
    path = write_rows(tmp_path, "lcc", [ROW, ROW])
    path.write_text(path.read_text("utf-8")[:-40], "utf-8")
    with pytest.raises(ValueError, match=r"lcc\.jsonl, line 2: not valid JSON.*half-written"):
        LongBenchDataset.load(path=str(tmp_path), task="lcc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": []}, "at least one text"),
        ({"answers": "one"}, "a list, each a text"),
        ({"length": "4"}, "whole number"),
        ({"all_classes": None}, "name its classes"),
    ],
)
def test_a_row_in_another_format_is_named(tmp_path, change, message):
    write_rows(tmp_path, "trec", [ROW, {**ROW, **change}])
    with pytest.raises(ValueError, match=rf"line 2: .*{message}"):
        LongBenchDataset.load(path=str(tmp_path), task="trec")
    write_rows(tmp_path, "lcc", [{"context": "x"}])
    with pytest.raises(ValueError, match="line 1: the row has no 'input'"):
        LongBenchDataset.load(path=str(tmp_path), task="lcc")


def test_missing_data_is_one_paragraph_that_says_where_and_how(tmp_path, monkeypatch):
    def fail(path):
        raise OSError("no network")

    monkeypatch.delenv("COMPASS_DATA_CACHE", raising=False)
    monkeypatch.setattr(data_files, "opencompass_location", fail)
    with pytest.raises(MissingDataError, match="no network.*asset:longbench") as caught:
        LongBenchDataset.load(task="lcc")
    assert "\n" not in str(caught.value)
    write_rows(tmp_path, "trec", [ROW])
    with pytest.raises(MissingDataError, match=r"'lcc.jsonl' is not in .*tasks there: trec"):
        LongBenchDataset.load(path=str(tmp_path), task="lcc")
    write_rows(tmp_path, "lcc", [])
    with pytest.raises(ValueError, match="holds no rows"):
        LongBenchDataset.load(path=str(tmp_path), task="lcc")


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'task'"):
        LongBenchDataset.load(tsk="lcc")
    with pytest.raises(ValueError, match="Did you mean 'lcc'"):
        LongBenchDataset.load(task="lc")
    with pytest.raises(ValueError, match="needs task"):
        LongBenchDataset.load(path="x")


def test_fewer_rows_than_published_are_said(tmp_path, caplog):
    write_rows(tmp_path, "lcc", [ROW])
    with caplog.at_level("WARNING", logger="opencompass_llada"):
        LongBenchDataset.load(path=str(tmp_path), task="lcc")
    assert "holds 1 rows and 500 are published" in caplog.text


def test_sample_set_is_generated_byte_for_byte(tmp_path):
    write_samples(tmp_path)
    shipped = resolve_asset("asset:longbench")
    names = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.jsonl")}
    assert names == {path.relative_to(shipped) for path in shipped.rglob("*.jsonl")}
    for name in names:
        assert (shipped / name).read_bytes() == (tmp_path / name).read_bytes()
    assert Path(V2_FILE) in names


@pytest.mark.parametrize("task", list(MAKERS))
def test_sample_rows_hold_their_answer(task):
    for number in range(6):
        row = make_row(task, number, 5)
        (answer,) = row["answers"]
        if task == "trec":
            assert answer in row["all_classes"]
            assert f"Type: {answer}" in row["context"]
        elif task == "passage_retrieval_en":
            named = row["context"].split(f"{answer}: ")[1].split("\n\n")[0]
            assert row["input"][:-1] in named
        else:
            assert answer in row["context"]


@pytest.mark.parametrize("task", list(TASKS))
def test_published_rows(task, real_data_root, monkeypatch):
    if not (real_data_root / "data" / "Longbench" / "data").is_dir():
        pytest.skip("no LongBench data: put its files into data/Longbench/data")
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(real_data_root))
    monkeypatch.delenv("DATASET_SOURCE", raising=False)
    benchmarks = ["longbench"] + ["longbench_e"] * (task in LONGBENCH_E_TASKS)
    for benchmark in benchmarks:
        samples = LongBenchDataset.load(task=task, benchmark=benchmark)
        before, _, after = PROMPTS[task].partition("{context}")
        ending = after.rsplit("{input}", 1)[-1]
        for sample in samples:
            assert sample["prompt"].startswith(before)
            assert sample["prompt"].endswith(ending)
            assert sample["answers"]
