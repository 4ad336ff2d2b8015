"""The tidy table, means and summarizer: numbers where there are results, words where not."""

import csv
import io
import json
import math
import pickle

import pytest

from opencompass_llada.report import summarizers
from opencompass_llada.report.heatmap import make_grids, write_means
from opencompass_llada.report.results import COLUMNS, read_results
from opencompass_llada.report.statistics import hit_rate_standard_error, mean_standard_error
from opencompass_llada.report.summarizers import NeedleSummarizer
from opencompass_llada.report.writers import write_csv_rows
from opencompass_llada.runs.run_folder import ModelFacts, describe_model

DATASET_TYPE = "opencompass_llada.benchmarks.needle.dataset.NeedleBenchSingleDataset"
LENGTHS, DEPTHS = (256, 512), (0, 50, 100)


def rows_of(cfg, work_dir):
    return list(read_results(cfg, work_dir).itertuples())


def make_config(work_dir, models=("plain", "scaled")):
    """Return a config of models x lengths x depths, as OpenCompass reads it back."""
    scalings = {
        "plain": {"type": "none"},
        "scaled": {"type": "ntk", "target_length": 2048},
    }
    return {
        "work_dir": str(work_dir),
        "models": [{"type": "m", "abbr": name, "rope_scaling": scalings[name]} for name in models],
        "datasets": [
            {
                "type": DATASET_TYPE,
                "abbr": f"cell_{length}_{depth}",
                "length": length,
                "depth": depth,
                "language": "English",
                "tokenizer": "asset:tiny",
            }
            for depth in DEPTHS
            for length in LENGTHS
        ],
    }


def write_result(work_dir, model, name, content):
    path = work_dir / "results" / model / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    predictions = work_dir / "predictions" / model / f"{name}.json"
    predictions.parent.mkdir(parents=True, exist_ok=True)
    predictions.write_text('{"0": {"prediction": "x"}}')


def write_all(cfg, work_dir, accuracy=60.0):
    for model in cfg["models"]:
        for dataset in cfg["datasets"]:
            details = [{"score": [100.0 if i < 6 else 2.0], "correct": [i < 6]} for i in range(10)]
            result = {"accuracy": accuracy, "score": 60.8, "num_samples": 10.0, "details": details}
            write_result(work_dir, model["abbr"], dataset["abbr"], result)


@pytest.fixture
def run(tmp_path):
    cfg = make_config(tmp_path)
    write_all(cfg, tmp_path)
    return cfg, tmp_path


def test_table_has_one_row_a_model_cell_and_metric(run):
    cfg, work_dir = run
    rows = rows_of(cfg, work_dir)
    keys = {(row.model, row.length, row.depth, row.metric) for row in rows}
    assert len(rows) == len(keys) == 2 * 2 * 3 * 2
    row = next(r for r in rows if r.model == "scaled" and r.metric == "accuracy")
    assert row.scaling == "ntk target_length=2048"
    assert (row.benchmark, row.language, row.tokenizer) == ("niah", "en", "asset:tiny")
    assert (row.score, row.n, row.status) == (60.0, 10, "ok")
    assert row.standard_error == pytest.approx(hit_rate_standard_error(6, 10))
    score = next(r for r in rows if r.metric == "score")
    expected = math.sqrt(sum((v - 60.8) ** 2 for v in [100] * 6 + [2] * 4) / 9 / 10)
    assert score.standard_error == pytest.approx(expected)


FAULTS = [
    ("absent", None, "missing", "no result"),
    ("error", {"error": "lost a shard"}, "failed", "lost a shard"),
    ("torn", '{"accuracy": 5', "failed", "not valid JSON"),
    ("list", [1, 2], "failed", "not a JSON object"),
    ("not a number", {"accuracy": math.nan, "score": math.nan}, "failed", "finite"),
    ("empty", {}, "failed", "finite"),
]


@pytest.mark.parametrize(("what", "content", "status", "reason"), FAULTS)
def test_unusable_result_is_a_row_without_a_number(run, what, content, status, reason):
    cfg, work_dir = run
    (work_dir / "results" / "plain" / "cell_256_50.json").unlink()
    if content is not None:
        write_result(work_dir, "plain", "cell_256_50", content)
    rows = rows_of(cfg, work_dir)
    bad = [row for row in rows if row.status != "ok"]
    assert [(row.model, row.length, row.depth) for row in bad] == [("plain", 256, 50)] * 2
    assert {row.metric for row in bad} == {"accuracy", "score"}
    for row in bad:
        assert (row.status, row.score, row.standard_error, row.n) == (status, None, None, None)
        assert reason in row.reason


def test_no_results_folder_at_all_is_all_missing(tmp_path):
    rows = rows_of(make_config(tmp_path), tmp_path)
    assert {row.status for row in rows} == {"missing"}
    assert len(rows) == 24


def test_csv_keeps_every_row_and_leaves_missing_numbers_empty(run):
    cfg, work_dir = run
    (work_dir / "results" / "plain" / "cell_256_50.json").unlink()
    rows = read_results(cfg, work_dir)
    text = write_csv_rows(list(COLUMNS), rows.to_numpy())
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == len(rows)
    missing = [row for row in read if row["status"] == "missing"]
    assert len(missing) == 2
    assert all(row["score"] == "" and row["n"] == "" for row in missing)


def test_combinations_and_other_benchmarks_are_read(tmp_path):
    cfg = make_config(tmp_path)
    other = {"type": "opencompass.datasets.ruler.Vt", "abbr": "ruler_vt"}
    cfg["model_dataset_combinations"] = [
        {"models": cfg["models"][:1], "datasets": cfg["datasets"][:1]},
        {"models": cfg["models"][1:], "datasets": [other]},
    ]
    write_result(tmp_path, "scaled", "ruler_vt", {"vt": 40.0, "num_samples": 5})
    results = read_results(cfg, tmp_path)
    rows = list(results.itertuples())
    assert [(row.model, row.metric) for row in rows] == [
        ("plain", "accuracy"),
        ("plain", "score"),
        ("scaled", "vt"),
    ]
    assert (rows[2].benchmark, rows[2].score, rows[2].length) == ("Vt", 40.0, None)
    assert len(make_grids(results, "accuracy")) == 1


def test_the_papers_scaling_factor_is_named_as_ntk():
    facts = describe_model({"abbr": "a", "scaling_config": {"scaling_factor": 14}})
    assert facts.scaling == "ntk theta_multiplier=14"
    assert describe_model({"abbr": "a", "scaling_config": {"scaling_factor": 1}}).scaling == "none"
    unscaled = {"type": "none", "trained_length": 2048}  # as Dream's configs have it
    assert describe_model({"abbr": "a", "rope_scaling": unscaled}).scaling == "none"


def test_means_are_not_taken_over_what_is_left(run):
    cfg, work_dir = run
    (work_dir / "results" / "plain" / "cell_256_50.json").unlink()
    write_result(work_dir, "plain", "cell_512_0", {"accuracy": 0.0, "score": 0.0, "num_samples": 3})
    facts = [ModelFacts(abbr="plain", title="The Model", scaling="none", trained_length=256)]
    rows = read_results(cfg, work_dir, facts)
    grids = make_grids(rows, "accuracy", {"plain": facts[0].trained_length})
    assert [grid.title for grid in grids] == [
        "The Model, no scaling",
        "scaled, ntk target_length=2048",
    ]
    plain = grids[0]
    assert (plain.lengths, plain.depths, plain.trained_length) == (LENGTHS, DEPTHS, 256)
    assert plain.mean(256) is None
    assert plain.mean(512) == pytest.approx(40.0)
    assert plain.mean() is None
    assert grids[1].mean() == 60.0
    text = write_means(grids)
    assert "| The Model, no scaling | missing 1 of 3 | 40.0 | missing |" in text
    assert "| 60.0 | 60.0 | 60.0 |" in text


def test_wilson_error_against_the_interval_it_is_half_of():
    for hits, n in [(0, 10), (3, 10), (10, 10), (50, 100)]:
        low, high = (
            next(p for p in candidates if abs(hits / n - p) <= math.sqrt(p * (1 - p) / n) + 1e-9)
            for candidates in (
                [i / 1e5 for i in range(100001)],
                [1 - i / 1e5 for i in range(100001)],
            )
        )
        assert hit_rate_standard_error(hits, n) == pytest.approx(50 * (high - low), abs=2e-3)
    assert hit_rate_standard_error(500, 1000) == pytest.approx(50 / math.sqrt(1000), rel=1e-3)


def test_mean_error_needs_two_values():
    assert mean_standard_error([5.0]) is None
    assert mean_standard_error([0.0, 100.0]) == pytest.approx(50.0)


def test_summarizer_writes_everything_and_says_where(run, caplog):
    cfg, work_dir = run
    caplog.set_level("INFO", logger="opencompass_llada")
    caplog.handler.setLevel("INFO")
    import logging

    logging.getLogger("opencompass_llada").addHandler(caplog.handler)
    NeedleSummarizer(
        cfg, models=[{"abbr": "plain", "title": "P", "trained_length": 256}]
    ).summarize(time_str="now")
    logging.getLogger("opencompass_llada").removeHandler(caplog.handler)
    names = {path.name for path in (work_dir / "summary").iterdir()}
    assert names == {
        "results_now.csv",
        "summary_now.md",
        "heatmap_plain_now.png",
        "heatmap_scaled_now.png",
        "heatmap_all_now.png",
    }
    assert f"picture: {work_dir / 'summary' / 'heatmap_all_now.png'}" in caplog.text
    assert f"page:    {work_dir / 'report' / 'report.html'}" in caplog.text
    assert "wrote" not in caplog.text, "not a line a file"


def test_summarizer_exits_non_zero_and_still_draws_when_a_cell_is_missing(run, caplog):
    cfg, work_dir = run
    (work_dir / "results" / "plain" / "cell_256_50.json").unlink()
    (work_dir / "predictions" / "plain" / "cell_256_50.json").unlink()
    with pytest.raises(SystemExit) as stop:
        NeedleSummarizer(cfg).summarize(time_str="now")
    assert stop.value.code == 1
    assert (work_dir / "summary" / "heatmap_plain_now.png").is_file()
    assert "missing 1 of 3" in (work_dir / "summary" / "summary_now.md").read_text()


def test_an_idle_worker_can_be_sent_what_draws_the_heat_maps(run, monkeypatch):
    cfg, work_dir = run
    beside = summarizers.working_beside

    def send(work, drawn, *, log):
        return beside(*pickle.loads(pickle.dumps((work, drawn))), log=log)

    monkeypatch.setattr(summarizers, "working_beside", send)
    NeedleSummarizer(cfg).summarize(time_str="now")
    assert len(list((work_dir / "summary").glob("heatmap_*.png"))) == 3


def test_summarizer_exits_non_zero_for_a_result_that_is_no_number(run):
    cfg, work_dir = run
    write_result(work_dir, "plain", "cell_256_50", {"accuracy": math.nan, "score": 1.0})
    with pytest.raises(SystemExit):
        NeedleSummarizer(cfg).summarize(time_str="now")


def test_missing_and_faulty_cells_are_both_named(run, caplog):
    cfg, work_dir = run
    (work_dir / "results" / "plain" / "cell_256_50.json").unlink()
    write_result(work_dir, "scaled", "cell_512_0", {"accuracy": math.nan, "score": 1.0})
    with pytest.raises(SystemExit):
        NeedleSummarizer(cfg).summarize(time_str="now")
    assert "plain on cell_256_50: no result was written" in caplog.text
    assert "scaled on cell_512_0: the result has no finite number 'accuracy'" in caplog.text


def test_summarizer_survives_a_run_without_any_result(tmp_path):
    with pytest.raises(SystemExit):
        NeedleSummarizer(make_config(tmp_path)).summarize(time_str="now")
    assert (tmp_path / "summary" / "heatmap_all_now.png").is_file()


def test_summarizer_refuses_an_unknown_metric(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'accuracy'"):
        NeedleSummarizer(make_config(tmp_path), metric="acuracy")


def test_the_two_prompt_forms_and_other_haystacks_get_grids_of_their_own(tmp_path):
    cfg = make_config(tmp_path, models=("plain",))
    cells = [{**d, "guide": False, "file_list": ["a.jsonl"]} for d in cfg["datasets"]]
    chat = [{**d, "abbr": d["abbr"] + "_chat", "guide": True} for d in cells]
    other = [{**d, "abbr": d["abbr"] + "_b", "file_list": ["b.jsonl"]} for d in cells]
    cfg["datasets"] = [*cells, *chat, *other]
    for accuracy, part in ((10.0, cells), (20.0, chat), (30.0, other)):
        write_all({**cfg, "datasets": part}, tmp_path, accuracy)
    grids = make_grids(read_results(cfg, tmp_path), "accuracy")
    assert [(grid.title, grid.mean()) for grid in grids] == [
        ("plain, no scaling, base prompt, a.jsonl", 10.0),
        ("plain, no scaling, chat prompt, a.jsonl", 20.0),
        ("plain, no scaling, base prompt, b.jsonl", 30.0),
    ]


def test_two_data_sets_of_one_cell_are_refused(run):
    cfg, work_dir = run
    cfg["datasets"].append({**cfg["datasets"][0], "abbr": "again"})
    with pytest.raises(ValueError, match="'again' has length 256 and depth 0"):
        make_grids(read_results(cfg, work_dir), "accuracy")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "ok"),
        ({"num_repeats_per_file": 12}, "failed"),
        ({"file_list": ["a.jsonl", "b.jsonl"]}, "failed"),
        ({"num_repeats_per_file": 12, "reader_cfg": {"test_range": "[:10]"}}, "ok"),
    ],
)
def test_result_of_another_number_of_samples_is_no_result(run, change, status):
    """OpenCompass's own evaluator scores what a lost shard leaves; -r keeps stale results."""
    cfg, work_dir = run
    cell = {"num_repeats_per_file": 10, "file_list": ["a.jsonl"], **change}
    cfg["datasets"] = [{**cfg["datasets"][0], **cell}]
    rows = rows_of(cfg, work_dir)
    assert {row.status for row in rows} == {status}
    if status == "failed":
        assert {row.score for row in rows} == {None}
        assert "of 10 samples" in rows[0].reason
        with pytest.raises(SystemExit):
            NeedleSummarizer(cfg).summarize(time_str="now")


def test_cells_without_the_metric_are_left_out_with_a_warning(run, caplog):
    cfg, work_dir = run
    evaluator = "opencompass.datasets.needlebench.origin.NeedleBenchOriginEvaluator"
    cfg["datasets"][-1]["eval_cfg"] = {"evaluator": {"type": evaluator}}
    NeedleSummarizer(cfg).summarize(time_str="now")
    assert "1 data sets report no 'accuracy'" in caplog.text
    assert "cell_512_100" in caplog.text


def test_stock_needlebench_config_and_evaluator_give_a_heat_map_of_scores(tmp_path, caplog):
    """OpenCompass's own evaluator reports a score and no accuracy; its model may have no abbr."""
    from mmengine.config import Config
    from opencompass.utils import dataset_abbr_from_cfg, model_abbr_from_cfg

    main = tmp_path / "main.py"
    main.write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from opencompass.configs.datasets.needlebench.needlebench_4k."
        "needlebench_single_4k import needlebench_en_datasets\n"
    )
    Config.fromfile(str(main), format_python_code=False).dump(str(tmp_path / "dumped.py"))
    cells = Config.fromfile(str(tmp_path / "dumped.py"))["needlebench_en_datasets"]
    model = {"type": "opencompass.models.HuggingFaceBaseModel", "path": "maker/model"}
    cfg = {"work_dir": str(tmp_path), "models": [model], "datasets": cells}
    for cell in cells:
        name, result = dataset_abbr_from_cfg(cell), {"score": 12.5, "details": [{}] * 10}
        write_result(tmp_path, model_abbr_from_cfg(model), name, result)
    NeedleSummarizer(cfg).summarize(time_str="now")
    assert len(list((tmp_path / "summary").glob("heatmap_*_now.png"))) == 2
    assert "| 12.5 |" in (tmp_path / "summary" / "summary_now.md").read_text()
    assert "show 'score' instead" in caplog.text
