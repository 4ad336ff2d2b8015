"""OpenCompass's own long suites: our data sets against the stock classes, on the same files.

The files are those of the embedded samples, which are in the published layout, and NeedleBench's
own where they are on this machine.
"""

import json
import random
from pathlib import Path

import pytest
from opencompass.datasets.aa_lcr import AALCRDataset
from opencompass.datasets.babilong.babilong import BabiLongDataset, BabiLongEvaluator
from opencompass.datasets.mrcr import MRCRDataset, MRCREvaluator
from opencompass.datasets.needlebench_v2 import atc, atc_elder_only, multi, origin, parallel

from opencompass_llada.benchmarks.aa_lcr.dataset import AaLcrSuiteDataset
from opencompass_llada.benchmarks.aa_lcr.scoring import AaLcrSuiteEvaluator, contain
from opencompass_llada.benchmarks.babilong.dataset import (
    BabiLongSuiteDataset,
    BabiLongSuiteEvaluator,
)
from opencompass_llada.benchmarks.data_checks import find_class, options_of
from opencompass_llada.benchmarks.data_files import MissingDataError
from opencompass_llada.benchmarks.mrcr.dataset import MrcrSuiteDataset, MrcrSuiteEvaluator
from opencompass_llada.benchmarks.needlebench_v2.dataset import (
    NeedleBenchV2SuiteDataset,
    TraceSuiteDataset,
)
from opencompass_llada.benchmarks.needlebench_v2.scoring import (
    NeedleBenchV2SuiteEvaluator,
    TraceSuiteEvaluator,
)
from opencompass_llada.benchmarks.published.dataset import (
    SuiteDataset,
    SuiteEvaluator,
    SuiteSample,
    cut_middle,
    cut_prompt,
    load_tokenizer,
)
from opencompass_llada.benchmarks.published.run import plan_published_suites
from opencompass_llada.benchmarks.published.suite import Suite
from opencompass_llada.benchmarks.readers import PromptParts
from opencompass_llada.runs.doctor import check_data
from opencompass_llada.runs.planning import list_data_sets, plan_run

TINY = "asset:tiny-llada"
SUITES = ("mrcr", "babilong", "aa_lcr", "needlebench_v2", "needlebench_atc")
BAD_ANSWERS = ("", " ", "\n\n", "x", "\\boxed{", "\\boxed{}", "}{", "�", "*#", "</context>" * 3)


def embedded(dataset, folder: Path) -> Path:
    dataset.write_embedded(folder)
    return folder


def chat_prompts(dataset, path, **options):
    rows = dataset.load(path=str(path), prompt="chat", **options)
    return [row["prompt"] for row in rows], rows


def scores(evaluator, rows, answers):
    found = evaluator.score(answers, rows["answer"], rows)
    return [detail["score"] for detail in found["details"]], found


@pytest.mark.parametrize("kind", [BabiLongSuiteDataset, NeedleBenchV2SuiteDataset])
def test_embedded_samples_are_generated_once_a_process(tmp_path, kind, monkeypatch):
    options = kind.check_options(
        benchmark=kind.suite.folder, task=next(iter(kind.suite.tasks)), path="embedded", length=1024
    )

    def read(folder):
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    expected, opened = read(embedded(kind, tmp_path)), []
    for _ in range(2):
        with kind.open_data(options) as folder:
            assert read(folder) == expected
            opened.append(folder)
        monkeypatch.setattr(kind, "write_embedded", None)
    assert opened[0] != opened[1], "nobody writes into another's"
    assert not any(folder.exists() for folder in opened)


# The stock classes on the same files.


@pytest.mark.parametrize("task", [f"qa{number}" for number in range(1, 11)])
def test_babilong_is_the_stock_class(tmp_path, task):
    folder = embedded(BabiLongSuiteDataset, tmp_path)
    stock = BabiLongDataset.load(str(folder), task, "1k")
    options = dict(benchmark="babilong", task=task, length=1024)
    prompts, rows = chat_prompts(BabiLongSuiteDataset, folder, **options)
    assert prompts == [row["prompt"][0] for row in stock]
    targets = [row["answer"] for row in stock]
    assert rows["answer"] == targets
    for answers in (
        [f"It is {target[0].upper()}. Not that." for target in targets],
        [f"Nothing. {target[0]}" for target in targets],
        *([answer, f"<example> {targets[1][0]}"] for answer in BAD_ANSWERS),
    ):
        _, ours = scores(BabiLongSuiteEvaluator(task), rows, answers)
        assert ours["score"] == BabiLongEvaluator().score(answers, targets)["score"]


def test_mrcr_is_the_stock_class(tmp_path, monkeypatch):
    folder = embedded(MrcrSuiteDataset, tmp_path / "mrcr")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    subset = "4needle_in_512_1024"
    card = f"---\nconfigs:\n- config_name: {subset}\n  data_files:\n  - split: test\n"
    (folder / "README.md").write_text(f"{card}    path: {subset}/test-*\n---\n")
    stock = MRCRDataset.load(str(folder), subset, cache_dir=str(tmp_path))
    options = dict(benchmark="mrcr", task="4needle", length=1024)
    prompts, rows = chat_prompts(MrcrSuiteDataset, folder, **options)
    assert prompts == [f"{row['context']}\n{row['question']}" for row in stock]
    assert rows["answer"] == stock["gold"]
    golds = [json.loads(gold) for gold in stock["gold"]]
    assert all(gold["prefix"] and gold["answer"].startswith(gold["prefix"]) for gold in golds)
    for answers in (
        [gold["answer"] for gold in golds],
        [gold["answer"][: len(gold["answer"]) // 2] for gold in golds],
        [gold["answer"].removeprefix(gold["prefix"]) for gold in golds],
        *([answer, golds[1]["prefix"] + answer] for answer in BAD_ANSWERS),
    ):
        _, ours = scores(MrcrSuiteEvaluator(), rows, answers)
        assert ours["score"] == pytest.approx(
            MRCREvaluator().score(answers, stock["gold"])["score"]
        )


def test_a_base_model_of_mrcr_is_given_the_letters_and_the_metric_sees_them(tmp_path):
    options = dict(benchmark="mrcr", task="2needle", length=1024, path="embedded")
    rows = MrcrSuiteDataset.load(**options, prompt="base")
    golds = [json.loads(gold) for gold in rows["answer"]]
    assert all(
        row["prompt"].endswith(f"\nAssistant: {gold['prefix']}")
        for row, gold in zip(rows, golds, strict=True)
    )
    own, _ = scores(
        MrcrSuiteEvaluator(), rows, [one["answer"].removeprefix(one["prefix"]) for one in golds]
    )
    assert own == [100.0, 100.0]
    none, _ = scores(
        MrcrSuiteEvaluator(),
        MrcrSuiteDataset.load(**options, prompt="chat"),
        [one["answer"].removeprefix(one["prefix"]) for one in golds],
    )
    assert none == [0.0, 0.0]


def test_aa_lcr_is_the_stock_class(tmp_path):
    folder = embedded(AaLcrSuiteDataset, tmp_path)
    stock = AALCRDataset.load(str(folder))["test"]
    options = dict(benchmark="aa_lcr", task="questions", scored_by="overlap")
    prompts, rows = chat_prompts(AaLcrSuiteDataset, folder, **options)
    assert prompts == stock["prompt"]
    for name in ("answer", "question_id", "document_category", "document_set_id", "question"):
        assert rows[name] == stock[name]


@pytest.fixture(scope="module")
def trace_folder(tmp_path_factory):
    return embedded(TraceSuiteDataset, tmp_path_factory.mktemp("trace"))


def test_the_ancestral_trace_is_the_stock_class(trace_folder):
    stock = atc.NeedleBenchATCDataset.load(
        str(trace_folder), file_name="names.json", num_needles=4, language="English", repeats=2
    )
    options = dict(benchmark="needlebench_atc", task="4needle", repeats=2)
    before = random.getstate()
    prompts, rows = chat_prompts(TraceSuiteDataset, trace_folder, **options)
    assert random.getstate() == before
    assert prompts == stock["prompt"]
    assert rows["answer"] == stock["answer"]
    assert len({*rows["kind"]}) == 4
    clean = atc_elder_only.needlebench_atc_postprocess_v2
    names = stock["answer"]
    for answers in (
        [f"So it is \\boxed{{{name}}}." for name in names],
        [f"\\boxed{{someone}} or \\boxed{{ \\text{{{name}}} }}" for name in names],
        [name for name in names],
        *([answer] * len(names) for answer in BAD_ANSWERS),
    ):
        _, ours = scores(TraceSuiteEvaluator(), rows, answers)
        judged = atc_elder_only.NeedleBenchATCEvaluator().score(list(map(clean, answers)), names)
        assert ours["score"] == pytest.approx(judged["score"])


REAL = dict(
    length=3000, tokenizer_model="gpt-4", num_repeats_per_file=2, length_buffer=500,
    file_list=["PaulGrahamEssays.jsonl"], language="English",
)  # fmt: skip


@pytest.fixture
def real_folder(real_data_root, monkeypatch):
    if not (real_data_root / "data/tiktoken").is_dir():
        pytest.skip("no data/tiktoken: set COMPASS_DATA_CACHE")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(real_data_root / "data/tiktoken"))
    return real_data_root / "data/needlebench"


def load_stock(kind, folder, depth, monkeypatch):
    """Yield the prompts and answers of the stock class on NeedleBench's own files."""
    names = dict(path=str(folder), needle_file_name="needles.jsonl")
    if kind == "single":
        return origin.NeedleBenchOriginDataset.load(**REAL, **names, depth=depth)
    if kind == "retrieval":
        random.seed(0)  # the stock class leaves the order of needles to the process
        return parallel.NeedleBenchParallelDataset.load(**REAL, **names, depths=[0, depth])
    monkeypatch.setattr(multi, "hf_hub_download", lambda filename, **_: str(folder / filename))
    names["needle_file_name"] = "names.json"
    rows = [
        row
        for needles in (2, 3, 4, 5)
        for row in multi.NeedleBenchMultiDataset.load(
            **REAL, **names, depth=depth, num_needles=needles, diff=10
        )
    ]
    return {name: [row[name] for row in rows] for name in ("prompt", "answer")}


@pytest.mark.parametrize("kind", ["single", "retrieval", "reasoning"])
def test_needlebench_v2_is_the_stock_class_on_its_own_files(kind, real_folder, monkeypatch):
    stock = load_stock(kind, real_folder, 40, monkeypatch)
    options = dict(
        benchmark="needlebench_v2", task=f"{kind}_en", length=3000, repeats=2,
        depths=[0, 40] if kind == "retrieval" else [40],
    )  # fmt: skip
    prompts, rows = chat_prompts(NeedleBenchV2SuiteDataset, real_folder, **options)
    assert prompts == list(stock["prompt"])
    assert rows["answer"] == list(stock["answer"])
    clean = atc_elder_only.needlebench_atc_postprocess_v2
    judge, shown, figure = {
        "single": (origin.NeedleBenchOriginEvaluator, str, "score"),
        "retrieval": (parallel.NeedleBenchParallelEvaluator, str, "average_score"),
        "reasoning": (atc_elder_only.NeedleBenchATCEvaluator, clean, "score"),
    }[kind]
    golds = list(rows["gold"])
    assert len({*golds}) > 1
    for answers in (
        golds,
        [golds[0]] * len(golds),
        [gold[: len(gold) // 2] for gold in golds],
        *([answer] * len(golds) for answer in BAD_ANSWERS),
    ):
        own, ours = scores(NeedleBenchV2SuiteEvaluator(f"{kind}_en"), rows, answers)
        judged = judge().score([shown(answer) for answer in answers], list(stock["answer"]))
        assert ours["score"] == pytest.approx(judged[figure])
    assert scores(NeedleBenchV2SuiteEvaluator(f"{kind}_en"), rows, golds)[1]["score"] == 100


def test_needlebench_v2_counts_with_any_tokenizer_and_keeps_room_for_the_answer():
    count = load_tokenizer(TINY).count
    for prompt in ("base", "chat"):
        rows = NeedleBenchV2SuiteDataset.load(
            benchmark="needlebench_v2", task="single_en", path="embedded", length=700,
            tokenizer=TINY, length_buffer="fit", answer_length=32, repeats=2, depths=[0, 100],
            prompt=prompt,
        )  # fmt: skip
        totals = [count(row["prompt"]) for row in rows]
        assert len(totals) == 4
        assert 640 < max(totals) <= 700 - 32
    with pytest.raises(ValueError, match="length=200 is too small for NeedleBench v2's single_en"):
        NeedleBenchV2SuiteDataset.load(
            benchmark="needlebench_v2", task="single_en", path="embedded", length=200,
            tokenizer=TINY, length_buffer="fit", answer_length=32, repeats=1,
        )  # fmt: skip


# AA-LCR's judge.


class Judge:
    """Stands for a judge model: an answer with the gold one in it is correct."""

    is_api = True

    def parse_template(self, prompts, mode):
        return list(prompts)

    def generate(self, inputs, max_out_len):
        raise AssertionError("the stock inferencer asks by templates")

    def generate_from_template(self, templates, max_out_len, **_):
        return list(map(self.says, templates))

    def says(self, template):
        text = template[0]["content"]
        gold = text.split("OFFICIAL ANSWER: ")[1].split("\n")[0]
        shown = text.split("ASSESS: ")[1].split("\n")[0]
        return "CORRECT" if gold.strip("[]'") in shown else "incorrect."


def test_aa_lcr_asks_the_stock_judge(tmp_path, monkeypatch):
    from opencompass.evaluator import generic_llm_evaluator

    monkeypatch.setattr(generic_llm_evaluator, "build_model_from_cfg", lambda model_cfg: Judge())
    rows = AaLcrSuiteDataset.load(benchmark="aa_lcr", task="questions", path="embedded")
    golds = [answer[0] for answer in rows["answer"]]
    judge = AaLcrSuiteEvaluator(judge={"type": "Judge", "batch_size": 2})
    judge._out_dir = str(tmp_path / "judged")
    found = judge.score([f"It is {golds[0]}.", golds[1].upper(), "", "no"], rows["answer"], rows)
    assert found["accuracy"] == found["accuracy_Reports"] == 25.0
    assert found["containment"] == 50.0
    assert [one["judgement"] for one in found["details"]] == ["CORRECT", *["INCORRECT"] * 3]
    assert list(found)[0] == "accuracy"


def test_without_a_judge_aa_lcr_is_refused_with_the_remedy(monkeypatch):
    for name in ("OC_JUDGE_MODEL", "OC_JUDGE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    settings = dict(models=["tiny_llada"], data="embedded", scored_by="judge")
    with pytest.raises(ValueError, match="OC_JUDGE_MODEL and OC_JUDGE_API_KEY is not set"):
        plan_run("aa_lcr", settings, num_gpus=0, announce=False)
    run = plan_run("aa_lcr", dict(settings, scored_by=None), num_gpus=0, announce=False)
    assert run.datasets[0]["scored_by"] == "overlap"


@pytest.mark.parametrize(
    ("prediction", "share"),
    [("A and  B", 1.0), ("b", 0.5), ("", 0.0), ("A", 0.5), ("nothing", 0.0)],
)
def test_containment_of_several_parts(prediction, share):
    assert contain(prediction, ["a", "B"]) == share
    assert contain(prediction, []) == 0.0


# What all share.


@pytest.mark.parametrize("name", SUITES)
def test_gold_answers_get_all_points_in_both_forms(name):
    for prompt in ("base", "chat"):
        for cell in list_data_sets(name, data="embedded", prompt=prompt):
            rows = find_class(cell["type"]).load(**options_of(cell))
            options = {k: v for k, v in cell["eval_cfg"]["evaluator"].items() if k != "type"}
            evaluator = find_class(cell["eval_cfg"]["evaluator"]["type"])(**options)
            found = evaluator.score(["x"] * len(rows), rows["answer"], rows)
            gold = found["bounds"]["gold answer"]
            assert len(rows)
            assert next(iter(gold.values())) == 100.0
            assert not rows[0]["prompt"].endswith((" ", "\n")) or prompt == "chat"
            assert all(0 < one <= 50 for one in found["bounds"].get("chance", {}).values())


@pytest.mark.parametrize("name", SUITES)
def test_missing_data_is_named_with_the_command_that_fetches_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MissingDataError, match=r"hf download \S+ --repo-type dataset.*embedded"):
        plan_run(
            name, dict(models=["tiny_llada"], samples=1, tokenizer=TINY), num_gpus=0, announce=False
        )
    cells = list_data_sets(name, tokenizer=TINY, samples=1)
    findings = [finding for finding in check_data(cells) if finding.level != "ok"]
    assert findings
    assert all("hf download" in finding.remedy for finding in findings)


def test_a_damaged_file_is_named(tmp_path):
    folder = embedded(MrcrSuiteDataset, tmp_path / "mrcr")
    [file] = (folder / "2needle_in_512_1024").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:200])
    options = dict(benchmark="mrcr", task="2needle", length=1024, path=str(folder))
    with pytest.raises(ValueError, match=r"test-00000-of-00001.parquet: not a parquet file"):
        MrcrSuiteDataset.load(**options)
    folder = embedded(BabiLongSuiteDataset, tmp_path / "babilong")
    (folder / "qa1/1k.json").write_text('[{"input": "x", "question": "y"}]')
    options = dict(benchmark="babilong", task="qa1", length=1024, path=str(folder))
    with pytest.raises(ValueError, match=r"record 1: the row has no 'target'"):
        BabiLongSuiteDataset.load(**options)
    folder = embedded(AaLcrSuiteDataset, tmp_path / "aa_lcr")
    table = folder / "AA-LCR_Dataset.csv"
    table.write_text(table.read_text().replace("question_id", "number"))
    with pytest.raises(ValueError, match=r"AA-LCR_Dataset.csv .*not as published \(KeyError"):
        AaLcrSuiteDataset.load(benchmark="aa_lcr", task="questions", path=str(folder))


def test_a_length_that_babilong_does_not_have_is_refused():
    for length in (None, 3000):
        with pytest.raises(ValueError, match=f"length={length}: .* one of 1024, 2048"):
            BabiLongSuiteDataset.load(
                benchmark="babilong", task="qa1", path="embedded", length=length
            )


def test_the_hub_calls_babilongs_longest_length_otherwise(tmp_path):
    folder = embedded(BabiLongSuiteDataset, tmp_path)
    (folder / "qa1/1k.json").rename(folder / "qa1/1M.json")
    rows = BabiLongSuiteDataset.load(
        benchmark="babilong", task="qa1", length=1024 * 1024, path=str(folder)
    )
    assert len(rows) == 2


TOY = Suite(
    name="toy", title="Toy", source="", tasks={"one": 8}, path="data/toy", folder="data/toy",
    fetch="cp -r toy FOLDER", find_files=lambda cell: ["one.txt"], dataset="", evaluator="",
)  # fmt: skip


class ToyDataset(SuiteDataset):
    """Two samples in a file, a line each."""

    suite = TOY

    @classmethod
    def read_samples(cls, options, folder):
        for line in (folder / "one.txt").read_text().splitlines():
            parts = cut_prompt(f"Read. <text>\n{line}\n</text> What?", "<text>\n", "\n</text>")
            yield SuiteSample(
                parts=parts, begins="\nAnswer:", gold="it", columns={"answer": "it"}, chance=50.0
            )

    @classmethod
    def write_embedded(cls, folder):
        (folder / "one.txt").write_text("few words\n" + "and many more words " * 60 + "\n")


class ToyEvaluator(SuiteEvaluator):
    """Scores by equality."""

    def score_answer(self, prediction, sample):
        return 100.0 * (prediction == sample["answer"])


def toy(**options):
    options = dict(benchmark="toy", task="one", path="embedded", prompt="chat") | options
    return [row["prompt"] for row in ToyDataset.load(**options)]


def test_samples_are_fitted_to_a_length():
    count = load_tokenizer(TINY).count
    whole = toy()
    assert [count(prompt) > 200 for prompt in whole] == [False, True]
    fitted = dict(length=100, tokenizer=TINY, answer_length=8)
    assert toy(**fitted, fit="keep") == whole[:1]
    short, cut = toy(**fitted, fit="middle")
    assert short == whole[0]
    assert 80 < count(cut) <= 92
    assert cut.startswith("Read. <text>\nand many more")
    assert cut.endswith("\n</text> What?")
    assert toy(**fitted, fit="whole") == whole
    with pytest.raises(ValueError, match=r"shortest prompt has \d+ tokens.*LLADA_FIT=middle"):
        toy(length=20, tokenizer=TINY, fit="keep")
    with pytest.raises(ValueError, match="more than the 5 that the length leaves"):
        toy(length=5, tokenizer=TINY, fit="middle")
    with pytest.raises(ValueError, match="give both"):
        toy(fit="keep")


def test_the_middle_that_goes_is_that_of_the_whole_prompt():
    tokenizer = load_tokenizer(TINY)
    text = " ".join(f"word{number}" for number in range(300))
    parts = PromptParts(head="Read this.\n", context=text, question="\nWhat is it?")
    tokens = tokenizer.encode(parts.whole)
    cut = cut_middle(parts, tokenizer, 200)
    published = tokenizer.decode(tokens[:100]) + tokenizer.decode(tokens[-100:])
    assert abs(len(cut.whole) - len(published)) < 12
    assert cut.whole[:150] == published[:150]
    assert cut.whole[-150:] == published[-150:]


def test_other_readers_get_less_and_both_forms_differ_in_the_beginning():
    chat, base = toy(), toy(prompt="base")
    assert base == [f"{prompt}\nAnswer:" for prompt in chat]
    none = toy(reader="no_context", prompt="base")
    assert none == ["Read. <text>\n\n</text> What?\nAnswer:"] * 2
    last = toy(reader="last_window", window=64, window_reserve=8, window_tokenizer=TINY)
    assert last[0] == chat[0]
    assert load_tokenizer(TINY).count(last[1]) <= 56 < len(last[1])


def test_bounds_of_a_toy():
    rows = ToyDataset.load(benchmark="toy", task="one", path="embedded", prompt="base")
    found = ToyEvaluator("one").score(["it", "no"], rows["answer"], rows)
    assert found["score"] == 50.0
    assert found["bounds"] == {
        "chance": {"score": 50.0},
        "gold answer": {"score": 100.0},
        "num_samples": 2,
    }


def test_another_wording_of_opencompass_is_refused():
    with pytest.raises(ValueError, match=r"install opencompass==0.5.4"):
        cut_prompt("no marks", "<a>", "</a>")


def test_lengths_and_fits_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match=r"lengths=\[9216\] .*of 8192, 16384"):
        list_data_sets("mrcr", lengths=["9k"], tokenizer=TINY)
    with pytest.raises(ValueError, match="give lengths"):
        list_data_sets("aa_lcr", fit="keep", tokenizer=TINY)
    cells = list_data_sets("needlebench_v2", data="embedded", tokenizer="gpt-4")
    assert {cell["tokenizer"] for cell in cells} == {"gpt-4"}
    [cell] = list_data_sets("aa_lcr", lengths=["128k"], tokenizer=TINY)
    assert (cell["fit"], cell["length"], cell["tokenizer"]) == ("keep", 131072, TINY)
    [cell] = list_data_sets("mrcr", lengths=["1m"], tasks=["8needle"])
    assert cell["length"] == 1048576
    assert "tokenizer" not in cell


def test_one_config_runs_the_suites_that_are_named(monkeypatch):
    monkeypatch.setenv("LLADA_SUITES", "mrcr,aa_lcr,longbench_v2")
    monkeypatch.setenv("LLADA_SAMPLES", "1")
    monkeypatch.setenv("LLADA_READERS", "full,no_context,last_window")
    run = plan_published_suites(dict(models=["tiny_llada"], scaling=["none"], data="embedded"))
    tasks = {(cell["benchmark"], cell["task"], cell.get("reader", "full")) for cell in run.datasets}
    assert {task for _, task, reader in tasks if reader == "full"} == {
        *("2needle", "4needle", "8needle", "questions", "v2"),
    }
    assert {reader for name, _, reader in tasks if name == "mrcr"} == {
        *("full", "no_context", "last_window"),
    }
    assert {cell["reader_cfg"]["test_range"] for cell in run.datasets} == {"[0:1]"}
    monkeypatch.setenv("LLADA_SUITES", "mcrc")
    with pytest.raises(ValueError, match="Did you mean 'mrcr'"):
        plan_published_suites({})
