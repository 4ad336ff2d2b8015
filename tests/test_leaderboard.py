"""A leaderboard says what is missing, averages nothing over it, and its files are well formed."""

import csv
import json
import re

import pandas
import pyarrow.parquet
import pytest
from work_dirs import RULER_TASKS, make_model, niah_cell, ruler_cell, write_json, write_run

from opencompass_llada.report.averages import make_board, name_series
from opencompass_llada.report.collect import collect
from opencompass_llada.report.publish import write_report
from opencompass_llada.report.scores import choose_headlines, rank_scores
from opencompass_llada.report.statistics import wilson
from opencompass_llada.report.writers import write_csv_rows
from opencompass_llada.runs.run_folder import find_runs

MODELS = [make_model("one"), make_model("two"), make_model("three-ar")]
CELLS = [niah_cell(length, depth) for length in (2000, 4000) for depth in (0, 50, 100)]
CELLS += [ruler_cell(task, 4096) for task in RULER_TASKS]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs" / "a", MODELS, CELLS)


def read(folder):
    collection = collect([folder])
    scores, remarks = rank_scores(make_board(collection))
    return collection, scores, "\n".join([*collection.notes, *remarks])


def find(scores, entry, column, length, metric=None):
    [found] = [
        s
        for s in scores
        if (s.entry, s.column, s.length) == (entry, column, length)
        and (metric is None or s.metric == metric)
    ]
    return found


def test_averages_are_those_of_the_result_files(run):
    _, scores, notes = read(run)
    assert notes == ""
    for model in ("one", "two"):
        folder = run / "results" / model
        cells = [json.loads((folder / f"ruler_{t}_length4096.json").read_text())["score"]
                 for t in RULER_TASKS]  # fmt: skip
        assert find(scores, model, "13 tasks", 4096).score == pytest.approx(sum(cells) / 13)
        assert find(scores, model, "NIAH", 4096).score == pytest.approx(sum(cells[:8]) / 8)
        hits = [json.loads((folder / f"niah_length2000_depth{d:03d}.json").read_text())["accuracy"]
                for d in (0, 50, 100)]  # fmt: skip
        mean = find(scores, model, "mean over depths", 2000, "accuracy")
        assert mean.score == pytest.approx(sum(hits) / 3)
        assert mean.low <= mean.score <= mean.high
        assert mean.n == 6
    assert find(scores, "three-ar", "QA", 4096).kind == "autoregressive"
    assert find(scores, "one", "QA", 4096).kind == "diffusion"


@pytest.mark.parametrize("source", ["details", "gold", "number of the sample"])
def test_needles_are_counted_and_not_samples(tmp_path, source):
    """Four samples of two needles are two observations; intervals counted four."""
    cells = [niah_cell(2000, depth, repeats=4) for depth in (0, 50)]
    run = write_run(tmp_path / "a", MODELS[:1], cells)
    for cell in cells:
        for part in ("predictions", "results"):
            path = run / part / "one" / f"{cell['abbr']}.json"
            content = json.loads(path.read_text())
            rows = content.values() if part == "predictions" else content["details"]
            for number, row in enumerate(rows):
                field = "gold" if part == "predictions" else "needle"
                row[field] = f"needle {number % 2}"
                if source == "number of the sample" or (source == "gold" and field == "needle"):
                    del row[field]
            write_json(path, content)
    _, scores, _ = read(run)
    mean = find(scores, "one", "mean over depths", 2000, "accuracy")
    number = 4 if source == "number of the sample" else 2
    assert (mean.low, mean.high) == pytest.approx(wilson(mean.score, number))


def test_questions_that_every_length_asks_are_counted_once(tmp_path):
    """RULER's qa tasks take the same questions at every length; the others make their own."""
    cells = [ruler_cell(task, length) for length in (4096, 8192) for task in RULER_TASKS]
    found = []
    for name in ("same", "own"):
        run = write_run(tmp_path / name, MODELS[:1], cells, quality=0.6)
        for cell in cells if name == "own" else ():
            path = run / "predictions" / "one" / f"{cell['abbr']}.json"
            rows = {k: row | {"gold": f"{cell['length']} {k}"} for k, row in
                    json.loads(path.read_text()).items()}  # fmt: skip
            write_json(path, rows)
        found.append(find(read(run)[1], "one", "13 tasks", None))
    same, own = found
    assert same.score == own.score
    assert same.high - same.low > own.high - own.low


def split_predictions(run, model, dataset, parts=2):
    """Turn a prediction file into shards as NumWorkerPartitioner leaves them, with their logs."""
    whole = run / "predictions" / model / f"{dataset}.json"
    answers = json.loads(whole.read_text())
    size = -(-len(answers) // parts)
    for number in range(parts):
        keys = list(answers)[number * size : (number + 1) * size]
        shard = {str(i): answers[key] for i, key in enumerate(keys)}
        write_json(whole.with_name(f"{dataset}_{number}.json"), shard)
        log = run / "logs/infer" / model / f"{dataset}_{number}.out"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("done\n")
    whole.unlink()


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("evidence", ["logs", "provenance"])
def test_a_deleted_shard_takes_the_number_away(run, lost, evidence):
    split_predictions(run, "one", "ruler_vt_length4096")
    collection, scores, _ = read(run)
    assert find(scores, "one", "vt", 4096).status == "ok", "whole shards are no fault"
    (run / f"predictions/one/ruler_vt_length4096_{lost}.json").unlink()
    if evidence == "logs":
        (run / "provenance/one.jsonl").unlink()
    elif lost == 1:
        (run / "logs/infer/one/ruler_vt_length4096_1.out").unlink()
    collection, scores, notes = read(run)
    [row] = [r for r in collection.rows if (r.model, r.task) == ("one", "vt")]
    assert (row.status, row.score, row.n) == ("partial", None, None)
    assert re.search(r"one on ruler_vt_length4096.*(shards \[\d\] are missing|2 of 4)", notes)
    for column in ("vt", "VT+CWE+FWE", "13 tasks"):
        score = find(scores, "one", column, 4096)
        assert (score.status, score.score, score.rank) == ("missing", None, None)
        assert "vt" in score.reason
    assert find(scores, "one", "NIAH", 4096).score is not None
    assert find(scores, "two", "13 tasks", 4096).score is not None


def test_a_lost_result_makes_no_average_of_what_was_not_asked_for(tmp_path):
    cells = [ruler_cell(task, 4096) for task in ("vt", "cwe")]
    folder = write_run(tmp_path / "a", [make_model("one"), make_model("two")], cells)
    (folder / "results/one/ruler_vt_length4096.json").unlink()
    _, scores, _ = read(folder)
    assert {s.status for s in scores if s.column == "13 tasks"} == {"not run"}
    assert find(scores, "one", "vt", 4096).status == "missing"
    [(_, column, _)] = choose_headlines(scores)
    assert find(scores, "two", column, 4096).score is not None


def test_packaged_samples_of_a_suite_have_a_table_of_their_own():
    rows = [
        ("mrcr", None, None, None, path, "one", "score", length, "2needle", None, None, "", abbr)
        for path, length, abbr in (("embedded", 1024, "a"), ("/data/mrcr_v2", 8192, "b"))
    ]
    columns = ("benchmark", "language", "haystack", "draws", "data", "entry", "metric", "length",
               "task", "depth", "tokenizer", "prompt", "dataset")  # fmt: skip
    titles = name_series(pandas.DataFrame(rows, columns=columns, dtype=object))
    assert titles == ["MRCR v2, embedded", "MRCR v2"]


def test_a_missing_cell_of_a_grid_is_named(run):
    (run / "results/one/niah_length2000_depth050.json").unlink()
    _, scores, _ = read(run)
    assert find(scores, "one", "mean over depths", None, "accuracy").reason == (
        "no result of 2000 at 50 %"
    )


def test_a_failed_task_is_said_with_its_error(run):
    for folder in ("predictions", "results"):
        for path in (run / folder / "two").glob("niah_length4000*"):
            path.unlink()
    log = run / "logs/infer/two/niah_length4000_depth000.out"
    log.parent.mkdir(parents=True)
    log.write_text("Traceback\nRuntimeError: CUDA out of memory\n")
    collection, scores, notes = read(run)
    assert "RuntimeError: CUDA out of memory" in notes
    bad = [row for row in collection.rows if row.status != "ok"]
    assert {(row.model, row.length) for row in bad} == {("two", 4000)}
    assert all(row.score is None and row.reason for row in bad)
    for length in (4000, None):
        assert find(scores, "two", "mean over depths", length, "accuracy").score is None
    assert find(scores, "two", "mean over depths", 2000, "accuracy").score is not None


def test_an_evaluators_error_and_a_torn_result_are_failed(run):
    write_json(run / "results/one/ruler_cwe_length4096.json", {"error": "length mismatch"})
    (run / "results/one/ruler_fwe_length4096.json").write_text('{"score": 10')
    collection, scores, notes = read(run)
    reasons = {r.task: r.reason for r in collection.rows if r.status == "failed"}
    assert "length mismatch" in reasons["cwe"]
    assert "not valid JSON" in reasons["fwe"]
    assert "length mismatch" in notes
    assert find(scores, "one", "CWE+FWE", 4096).score is None


def test_a_missing_cell_of_an_unknown_benchmark_hides_no_other(tmp_path):
    kind = "opencompass.datasets.MMLUDataset"
    cells = [{**niah_cell(2000, 0), "abbr": f"mmlu_{name}", "type": kind} for name in "abc"]
    for cell in cells:
        del cell["length"], cell["depth"]
    run = write_run(tmp_path / "a", MODELS[:1], [{**cell, "length": 9} for cell in cells])
    config = next((run / "configs").glob("*.py"))
    config.write_text(config.read_text().replace("'length': 9", "'seen': 9"))
    for cell in cells:
        write_json(run / f"results/one/{cell['abbr']}.json", {"accuracy": 50.0})
    (run / "results/one/mmlu_b.json").unlink()
    _, scores, _ = read(run)
    found = {s.column: (s.score, s.status) for s in scores}
    assert found == {"mmlu_a": (50, "ok"), "mmlu_b": (None, "missing"), "mmlu_c": (50, "ok")}
    assert {s.metric for s in scores} == {"accuracy"}


def test_numbered_details_belong_to_their_own_samples(tmp_path):
    """OpenCompass's own evaluators number them, and "10" is not what follows "1"."""
    run = write_run(tmp_path / "a", MODELS[:1], [ruler_cell("vt", 4096, num_samples=12)])
    path = run / "results/one/ruler_vt_length4096.json"
    result = json.loads(path.read_text())
    for index, detail in enumerate(result["details"]):
        detail["score"] = [float(index)]
    numbered = {str(i): detail for i, detail in enumerate(result["details"])}
    write_json(path, {**result, "details": {"type": "GEN", **numbered}})
    [cell] = read(run)[0].cells.values()
    assert [sample.score for sample in cell.samples] == [0, 1, 2]
    assert cell.scores["score"] == tuple(map(float, range(12)))


def test_tasks_that_were_not_run_are_not_missing(tmp_path):
    run = write_run(tmp_path / "a", MODELS[:1], [ruler_cell(t, 4096) for t in RULER_TASKS[:8]])
    _, scores, notes = read(run)
    assert notes == ""
    assert find(scores, "one", "13 tasks", 4096).status == "not run"
    assert find(scores, "one", "NIAH", 4096).status == "ok"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the folder of a report of a run in which one result is missing."""
    root = tmp_path_factory.mktemp("report")
    run = write_run(root / "a", MODELS, CELLS)
    (run / "results/one/ruler_vt_length4096.json").unlink()
    paths = write_report(find_runs([run]), root / "out")
    assert paths[0] == root / "out/report.html"
    return root / "out"


def test_every_format_holds_the_same_and_is_well_formed(written):
    rows = list(csv.DictReader((written / "results.csv").open()))
    table = pyarrow.parquet.read_table(written / "results.parquet").to_pylist()
    assert len(rows) == len(table) == 3 * (6 * 2 + 13)
    missing = [row for row in rows if row["status"] == "missing"]
    assert [(row["model"], row["task"], row["score"], row["n"]) for row in missing] == [
        ("one", "vt", "", "")
    ]
    assert [row["score"] for row in table if row["status"] == "missing"] == [None]
    for one, other in zip(rows, table, strict=True):
        assert one["score"] == ("" if other["score"] is None else str(other["score"]))
    plots = list((written / "plots").glob("*.png"))
    assert len(plots) >= 4
    assert all(plot.with_suffix(".svg").is_file() for plot in plots)
    record = json.loads((written / "provenance.json").read_text())["a"]
    assert record["models"]["one"]["dtype"] == "float32"
    assert "models=" in next(iter(record["configs"].values()))


def test_markdown_tables_have_equal_rows(written):
    text = (written / "leaderboard.md").read_text()
    assert "no result was written" in text
    assert "Bold: the best of its group" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) >= 4
    for table in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table


def test_latex_has_booktabs_and_as_many_fields_as_columns(written):
    text = (written / "leaderboard.tex").read_text()
    blocks = re.findall(
        r"\\begin\{tabular\}\{@\{\}([^\n]+)@\{\}\}(.*?)\\end\{tabular\}", text, re.DOTALL
    )
    assert len(blocks) >= 4
    for columns, body in blocks:
        assert r"\toprule" in body
        assert r"\bottomrule" in body
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {columns.count("pt}")}
        plain = body.replace(r"$\geq$", "").replace("$<$", "")
        assert not re.search(r"(?<!\\)[%_#$]", plain)


def test_a_report_of_hostile_texts_shows_them_as_text(tmp_path):
    hostile = "</td><script>window.hacked=1</script><img src=x onerror=alert(1)>"
    run = write_run(
        tmp_path / "a",
        [make_model("one")],
        CELLS[:2],
        quality=0.0,
        prediction=hostile,
        titles=["<b>one</b>"],
    )
    page = write_report(find_runs([run]), tmp_path / "out")[0].read_text()
    assert "<script>window" not in page
    assert "&lt;script&gt;window.hacked=1&lt;/script&gt;" in page
    assert "<b>one" not in page
    assert page.count("<script>") == 1
    assert not re.search(r"(?<!\\)<b>", (tmp_path / "out/leaderboard.md").read_text())


def test_no_field_is_a_formula_and_no_note_is_markup(tmp_path):
    """A spreadsheet computes what begins with a sign; NUL and \u202e hide what stands there."""
    hostile = ["=HYPERLINK(1)", "+cmd|' /C calc'!A0", "-1+1", "@SUM(A1)", "\t=1", "<b>|x|\u202e\0"]
    models = [make_model(f"m{number}") for number in range(len(hostile))]
    run = write_run(tmp_path / "a", models, CELLS[:2], titles=hostile, prediction="ab\u202ecd\0")
    (run / "results/m5/niah_length2000_depth000.json").unlink()
    again = write_run(tmp_path / "[x](http:) <img>", [make_model("m0", path="x")], CELLS[:2],
                      titles=hostile)  # fmt: skip
    out = tmp_path / "out"
    page = write_report(find_runs([run, again]), out)[0].read_text()
    texts = [path.read_text() for path in [*out.glob("**/*.csv"), *out.glob("leaderboard.*")]]
    assert not [text for text in [page, *texts] if re.search("[\u202e\0]", text)]
    assert "\\u202e" in page, "it is shown"
    for path in out.glob("**/*.csv"):
        for row in csv.DictReader(path.open(newline="")):
            for name, field in row.items():
                if (field or "").lstrip()[:1] in ("=", "+", "-", "@"):
                    assert float(field) is not None, (path, name, field)
    rows = list(csv.DictReader((out / "results.csv").open(newline="")))
    assert {row["title"] for row in rows} >= {"'=HYPERLINK(1)", "'-1+1", "'@SUM(A1)"}
    told = (out / "leaderboard.md").read_text().partition("## What to know")[2].partition("\n##")[0]
    assert "m5" in told
    assert not re.search(r"(?<!\\)[<\[]", told)


def test_numbers_stay_numbers_in_csv():
    values = [-0.5, 3, None, "-0.5", "+2", "-1e-3", "−2", "-", "- x", "a"]
    line = write_csv_rows(["h"] * 10, [values]).splitlines()[1]
    assert line == "-0.5,3,,-0.5,+2,-1e-3,−2,'-,'- x,a"


def test_lines_are_in_the_order_of_scores_and_unlike_questions_apart(tmp_path):
    first = write_run(tmp_path / "a", MODELS, CELLS, quality=0.8)
    more = [
        niah_cell(length, depth, repeats=8) for length in (2000, 4000) for depth in (0, 50, 100)
    ]
    more += [ruler_cell(task, 4096, num_samples=6) for task in RULER_TASKS]
    second = write_run(tmp_path / "b", [make_model("four"), make_model("five")], more, word="text")
    (first / "results/one/niah_length2000_depth000.json").unlink()
    page = write_report(find_runs([first, second]), tmp_path / "out")[0].read_text()
    table = page.partition('<section id="leaderboard"')[2].partition("</section>")[0]
    assert table.count("<tbody>") == 2
    own, other = table.split("<tbody>")[1:]
    found = [re.findall(r"<tr><th>(.*?)</th>", part) for part in (own, other)]
    assert sorted(map(len, found)) == [2, 3]
    for part in (own, other):
        values = re.findall(r"<tr><th>.*?</th><td>.*?</td><td(?: data-v=\"([\d.]+)\")?", part)
        numbers = [float(value) for value in values if value]
        assert numbers == sorted(numbers, reverse=True)
        assert "" not in values[:-1], "what is missing is last"
    assert "asked the same and are ranked among themselves" in own
    assert re.search(
        r"Not asked the same as the group before.*samples a cell \(\d, not \d\)", other
    )
    told = (tmp_path / "out/leaderboard.md").read_text()
    assert re.search(r"- Lines \d to 5 \(.*\): Not asked the same", told)
    rows = list(csv.DictReader((tmp_path / "out/tables/leaderboard.csv").open(newline="")))
    groups = [[row["model"] for row in rows if row["group"] == number] for number in "12"]
    assert groups == [[re.sub("<.*?>", "", name) for name in part] for part in found]


def test_each_group_is_told_from_the_one_before_and_a_line_alone_is_no_group(tmp_path):
    runs = [
        write_run(tmp_path / name, [make_model(name)], [niah_cell(2000, 50, repeats=number)],
                  quality=quality)
        for name, number, quality in (("a", 4, 1.0), ("b", 8, 0.6), ("c", 12, 0.0))
    ]  # fmt: skip
    write_report(find_runs(runs), tmp_path / "out")
    told = (tmp_path / "out/leaderboard.md").read_text()
    assert "Line 1 (a): No other line was asked all the same." in told
    assert re.search(r"Line 2 \(b\): .*the group before.*samples a cell \(8, not 4\)", told)
    assert re.search(r"Line 3 \(c\): .*the group before.*samples a cell \(12, not 8\)", told)
    assert "ranked among themselves" not in told
    assert "group 1 of" not in told
