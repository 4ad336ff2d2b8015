"""LV-Eval: the published rows and archives, OpenCompass's classes on them, its metrics."""

import json
import shutil
import zipfile

import opencompass.datasets.lveval as stock
import pytest

from opencompass_llada.benchmarks.data_files import MissingDataError
from opencompass_llada.benchmarks.lveval.dataset import LVEvalDataset, LVEvalEvaluator
from opencompass_llada.benchmarks.lveval.facts import LENGTHS, SUITE, TASKS, list_files, name_length
from opencompass_llada.benchmarks.lveval.scoring import METRICS
from opencompass_llada.benchmarks.published.dataset import load_tokenizer
from opencompass_llada.benchmarks.published.stock import load_stock
from opencompass_llada.runs.planning import list_data_sets

#: One task with keywords in its answers, one without.
STOCK_DATASETS = {
    "hotpotwikiqa_mixup": stock.LVEvalhotpotwikiqaDataset,
    "dureader_mixup": stock.LVEvaldureaderDataset,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lveval")
    LVEvalDataset.write_embedded(path)
    return path


def load(task, path, length=1024, **options):
    return LVEvalDataset.load(
        benchmark="lveval", task=task, path=str(path), length=length, **options
    )


def test_tasks_lengths_and_answers_are_the_stock_configs():
    for name, task in TASKS.items():
        config = load_stock(f"lveval.{task.stock}")
        assert (config["path"], config["name"]) == ("Infinigence/LVEval", f"{name}_16k")
        assert config["infer_cfg"]["inferencer"]["max_out_len"] == task.answer_length
        assert config["eval_cfg"]["evaluator"]["language"] == task.language
    assert [name_length(length) for length in LENGTHS] == ["16k", "32k", "64k", "128k", "256k"]
    assert len(list_data_sets("lveval", data="published")) == 55


@pytest.mark.parametrize("task", STOCK_DATASETS)
def test_rows_are_those_of_the_stock_class(folder, tmp_path, task):
    # Its files are called so that `datasets` finds the split without the hub's script.
    shutil.copy(folder / list_files(task, 1024).partition("|")[0], tmp_path / "test.jsonl")
    loader = STOCK_DATASETS[task]
    theirs = loader.load(path=str(tmp_path), cache_dir=str(tmp_path / "cache"))["test"]
    template = load_stock(f"lveval.{TASKS[task].stock}")["infer_cfg"]["prompt_template"]
    user = template["template"]["round"][0]["prompt"]
    for prompt in ("base", "chat"):
        ours = load(task, folder, prompt=prompt)
        assert ours["prompt"] == [user.format(**other) for other in theirs]
    for own, other in zip(ours, theirs, strict=True):
        keywords = [own["keywords"]] if "answer_keywords" in theirs.column_names else []
        assert [*own["answer"], *keywords] == other["answers"]


@pytest.mark.parametrize("task", TASKS)
def test_gold_answers_score_all_points_and_malformed_ones_few(task):
    rows = load(task, "embedded")
    evaluator, tokenizer = LVEvalEvaluator(task), load_tokenizer("asset:tiny-llada")
    found = evaluator.score(list(rows["gold"]), rows["answer"], rows)
    assert found["score"] == pytest.approx(100)
    assert found["bounds"]["gold answer"]["score"] == pytest.approx(100)
    for row in rows:
        assert tokenizer.count(row["prompt"]) + 32 <= 1024
        for malformed in ("", " ", "\n", "?", "{x}", "。", "the a an"):
            assert evaluator.score_answer(malformed, row) == 0


#: Metric, language, answer, gold answers, keywords, score: the cases of info/ in the repository,
#: then the rules of metrics.py.
PUBLISHED = [
    (
        *("keyword_f1", "en"),
        "There is no mention of Martin or independent publishing of digital books in the passage. "
        "The passage appears to be about a research paper on contour completion using deep "
        "structure priors.",
        ["Martin began independent publishing her books as digital books in 2020."],
        *("2020", 0),
    ),
    (
        *("keyword_f1", "en"),
        "For services to Medicine and to the community in the Cayman Islands.",
        ["For his services to music."],
        *("services to music", 0.4),
    ),
    ("f1", "en", "Ludwig Beethoven.", ["Ludwig Beethoven"], "", 1),
    ("f1", "en", "David Beckham.", ["Ludwig Beethoven"], "", 0),
    ("f1", "zh", "贝克汉姆。", ["贝多芬"], "", 0),
    ("f1", "zh", "贝多芬。", ["贝多芬"], "", 1),
    ("f1", "en", "second", ["first", "second"], "", 0),
    ("keyword_f1", "en", "red fox", ["red dog"], "", 0.5),
    ("keyword_f1", "en", "red fox", ["red dog"], "dog", 0),
    ("keyword_f1", "en", "red fox", ["red dog"], "the", 0.5),
    ("keyword_f1", "en", "red fox", ["red dog", "cat"], "", 0.5),
    ("keyword_f1", "zh", "克里斯汀", ["导演是克里斯汀"], "", 2 / 3),
    ("keyword_f1", "zh", "导演是谁", ["导演是克里斯汀"], "克里斯汀", 0),
    ("keyword_f1", "zh", "导演是克里斯汀", ["导演是克里斯汀"], "。", 1),
    ("rouge", "zh", "苹果和香蕉", ["苹果，香蕉"], "", 1),
    ("rouge", "zh", "和", ["苹果"], "", 0),
]


@pytest.mark.parametrize(
    ("metric", "language", "prediction", "answers", "keywords", "expected"), PUBLISHED
)
def test_scores_are_the_suites_own(metric, language, prediction, answers, keywords, expected):
    found = METRICS[metric](prediction, answers, keywords, language)
    assert found == pytest.approx(100 * expected, abs=1e-5)


def test_the_hubs_archives_are_read_as_they_are(tmp_path, folder):
    task = "lic_mixup"
    with zipfile.ZipFile(tmp_path / f"{task}.zip", "w") as archive:
        archive.write(folder / task / f"{task}_1k.jsonl", f"{task}/{task}_1k.jsonl")
    assert load(task, tmp_path)[:] == load(task, folder)[:]
    with pytest.raises(ValueError, match=r"lic_mixup\.zip holds no lic_mixup_16k\.jsonl"):
        load(task, tmp_path, length=16384)
    (tmp_path / f"{task}.zip").write_bytes(b"half")
    with pytest.raises(ValueError, match="no zip archive; it is damaged"):
        load(task, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": []}, "must begin with an answer of words"),
        ({"answers": ["?"]}, "must begin with an answer of words"),
        ({"answer_keywords": 1}, "answer_keywords"),
        ({"input": None}, "input"),
    ],
)
def test_a_row_in_another_format_is_named(tmp_path, folder, change, message):
    row = json.loads((folder / "lic_mixup/lic_mixup_1k.jsonl").read_text("utf-8").splitlines()[0])
    file = tmp_path / "lic_mixup_1k.jsonl"
    file.write_text(json.dumps({**row, **change}), "utf-8")
    with pytest.raises(ValueError, match=rf"lic_mixup_1k\.jsonl, line 1.*{message}"):
        load("lic_mixup", tmp_path)


def test_files_lie_below_the_data_cache(tmp_path, monkeypatch):
    LVEvalDataset.write_embedded(tmp_path / SUITE.folder)
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    assert load("lic_mixup", SUITE.path)[:] == load("lic_mixup", "embedded")[:]


def test_a_missing_file_says_how_to_fetch_it(tmp_path):
    with pytest.raises(MissingDataError, match="hf download Infinigence/LVEval"):
        load("lic_mixup", tmp_path)
