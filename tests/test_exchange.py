"""Results of lm-evaluation-harness as rows, ours as its files, and scores sent to trackers."""

import hashlib
import json
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from work_dirs import RULER_TASKS, make_model, niah_cell, ruler_cell, write_json, write_run

from opencompass_llada.cli import main
from opencompass_llada.report.averages import make_board
from opencompass_llada.report.collect import collect
from opencompass_llada.report.lm_eval import _has_shares, _scale, export, read_lm_eval
from opencompass_llada.report.scores import rank_scores
from opencompass_llada.report.statistics import mean_standard_error
from opencompass_llada.report.trackers import open_tracker

STAMP = "2026-01-31T23-59-59.123456"
HARNESS = "lm-evaluation-harness 0.4.13"


@pytest.fixture
def run(tmp_path):
    cells = [niah_cell(length, 50, repeats=4) for length in (2000, 4000)]
    cells += [ruler_cell(task, 4096) for task in RULER_TASKS]
    return write_run(tmp_path / "a", [make_model("one")], cells, quality=0.6)


def write_harness(folder, **extra):
    """Write what ``lm_eval --model hf --tasks ... --log_samples --output_path FOLDER`` leaves."""
    results = {
        "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.5,
                  "exact_match_stderr,strict-match": 0.25, "exact_match,flexible-extract": 0.75,
                  "exact_match_stderr,flexible-extract": 0.25},
        "niah_single_1": {"alias": "niah_single_1", "4096,none": 0.75, "4096_stderr,none": "N/A",
                          "8192,none": -1, "8192_stderr,none": "N/A"},
        "wikitext": {"alias": "wikitext", "word_perplexity,none": 12.5,
                     "word_perplexity_stderr,none": "N/A"},
        "bleu_task": {"alias": "bleu_task", "bleu,none": 0.9, "bleu_stderr,none": 0.1},
    }  # fmt: skip
    content = {
        "results": results,
        "group_subtasks": {name: [] for name in results},
        "configs": {name: {"task": name, "dataset_path": f"hub/{name}"} for name in results},
        "versions": dict.fromkeys(results, 3.0),
        "n-shot": dict.fromkeys(results, 0),
        "higher_is_better": {"wikitext": {"word_perplexity": False}},
        "n-samples": {name: {"original": 9, "effective": 4} for name in results},
        "config": {"model": "hf", "model_args": "pretrained=some/model", "device": "cuda:0"},
        "date": 1769903999.0,
        "lm_eval_version": "0.4.13",
        "model_name": "some/model",
        **extra,
    }
    write_json(folder / f"results_{STAMP}.json", content)
    lines = {"gsm8k": [], "niah_single_1": []}
    for index in (1, 0, 3, 2):
        asked = {"gen_args_0": {"arg_0": f"prompt {index}", "arg_1": {}}}
        shared = {"doc_id": index, "target": f"gold {index}", "arguments": asked}
        for chosen, most in (("strict-match", 2), ("flexible-extract", 3)):
            lines["gsm8k"].append({**shared, "filter": chosen, "exact_match": float(index < most)})
        ruler = {"4096": float(index > 0), "8192": -1}
        lines["niah_single_1"].append({**shared, "filter": "none", **ruler})
    for task, samples in lines.items():
        text = "".join(json.dumps(sample) + "\n" for sample in samples)
        (folder / f"samples_{task}_{STAMP}.jsonl").write_text(text)
    return folder


def test_the_harness_results_are_rows_beside_ours(run, tmp_path):
    folder = write_harness(tmp_path / "lm" / "some__model")
    collection = collect([run], read_lm_eval([tmp_path / "lm"]))
    rows = {(r.task, r.metric): r for r in collection.rows if r.model == "some/model"}
    assert set(rows) == {
        ("gsm8k", "exact_match (strict-match)"),
        ("gsm8k", "exact_match (flexible-extract)"),
        ("niah_single_1", "score"),
        ("bleu_task", "bleu"),
    }
    strict = rows["gsm8k", "exact_match (strict-match)"]
    assert (strict.score, strict.n, strict.standard_error) == (50, 4, 25)
    assert strict.sample_scores == (100, 100, 0, 0), "in order of the documents"
    assert len(set(strict.units)) == 4, "a document is one observation, whatever its answer"
    assert strict.entry == f"some/model ({HARNESS})"
    assert strict.recorded == "2026-01-31T23:59:59+00:00"
    ruler = rows["niah_single_1", "score"]
    assert (ruler.benchmark, ruler.length, ruler.score, ruler.n) == ("ruler", 4096, 75, 4)
    assert rows["bleu_task", "bleu"].score == 0.9, "nothing says that it is a share of 1"
    assert any("word_perplexity: lower is better" in note for note in collection.notes)
    scores, _ = rank_scores(make_board(collection))
    [score] = [s for s in scores if s.column == "gsm8k"]
    assert score.low < 50 < score.high
    assert folder.is_dir()


def test_equal_prompts_make_the_same_question(run, tmp_path):
    """The harness's row then stands in our column and is ranked with ours."""
    [path] = export(collect([run]), tmp_path / "lm" / "results_1.json")[:1]
    content = json.loads(path.read_text())
    assert (
        main(["report", str(run), "--lm-eval", str(tmp_path / "lm"), "-o", str(tmp_path / "o")])
        == 0
    )
    scores, _ = rank_scores(make_board(collect([run], read_lm_eval([path]))))
    columns = {}
    for score in scores:
        if score.status != "not run":
            columns.setdefault((score.series, score.column, score.length), []).append(score)
    assert len(columns) > 13
    for own, other in columns.values():
        assert other.entry.startswith(f"one ({content['exported_by']}")
        assert (own.score, own.low, own.high) == pytest.approx((other.score, other.low, other.high))
        assert own.protocol == other.protocol, "the same question"


def test_an_export_has_the_harness_fields_and_comes_back(run, tmp_path):
    assert main(["export", str(run), "-o", str(tmp_path / "out/results_1.json")]) == 0
    content = json.loads((tmp_path / "out/results_1.json").read_text())
    assert {"results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config",
            "date", "group_subtasks", "git_hash", "model_name"} <= set(content)  # fmt: skip
    before = {(r.dataset, r.metric): r for r in collect([run]).rows}
    for (dataset, metric), row in before.items():
        own = content["results"][dataset]
        assert own[f"{metric},none"] == pytest.approx(row.score / 100)
        assert content["n-samples"][dataset]["effective"] == row.n
    [imported] = read_lm_eval([tmp_path / "out"])
    after = {(r["dataset"], r["metric"]): r for r in imported.rows}
    assert set(after) == set(before)
    for key, row in before.items():
        errors = mean_standard_error(row.sample_scores)
        assert after[key]["standard_error"] == pytest.approx(errors), "as the harness defines it"
        for name in ("score", "n", "sample_scores", "prompt_hash"):
            expected = getattr(row, name)
            same = expected if isinstance(expected, str) else pytest.approx(expected)
            assert after[key][name] == same, (key, name)
    line = json.loads((tmp_path / "out/samples_ruler_vt_length4096_1.jsonl").open().readline())
    prompt = line["arguments"]["gen_args_0"]["arg_0"]
    assert line["prompt_hash"] == hashlib.sha256(prompt.encode()).hexdigest()


def test_an_exported_error_is_that_of_the_samples_or_none(tmp_path):
    cells = [niah_cell(2000, depth, repeats=4) for depth in (0, 50)]
    run = write_run(tmp_path / "a", [make_model("one")], cells, quality=1.0)
    path = run / f"results/one/{cells[1]['abbr']}.json"
    write_json(path, {"score": 61.5, "accuracy": 61.5, "num_samples": 4})
    export(collect([run]), tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    errors = [results[cell["abbr"]]["accuracy_stderr,none"] for cell in cells]
    assert errors == [0, "N/A"], "4 hits of 4; no scores by sample"
    assert [own.name for own in tmp_path.glob("samples*")] == [
        f"samples_{cells[0]['abbr']}_results.jsonl"
    ]


def test_a_cost_of_an_imported_line_is_not_recorded(run, tmp_path):
    write_harness(tmp_path / "lm")
    words = ["report", str(run), "--lm-eval", str(tmp_path / "lm"), "-o", str(tmp_path / "o")]
    assert main(words) == 0
    lines = (tmp_path / "o/tables/cost.csv").read_text().splitlines()
    [own] = [line for line in lines if "some/model" in line and "gsm8k" in line]
    assert own.count("not recorded") >= 6
    assert "missing" not in own


def test_samples_that_are_not_all_there_do_not_count(run, tmp_path):
    folder = write_harness(tmp_path / "lm")
    for task in ("gsm8k", "niah_single_1"):
        path = folder / f"samples_{task}_{STAMP}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    [found] = read_lm_eval([folder])
    numbers = {row["task"]: (row["n"], row["sample_scores"]) for row in found.rows}
    assert numbers["gsm8k"] == (4, None), "as the results say"
    path.unlink()
    [found] = read_lm_eval([folder])
    [ruler] = [row for row in found.rows if row["benchmark"] == "ruler"]
    assert ruler["n"] is None, "the results count the samples of all lengths"


def test_files_of_another_form_are_refused_by_name(tmp_path):
    folder = write_harness(tmp_path / "lm", **{"n-samples": {"gsm8k": 4}})
    with pytest.raises(ValueError, match="is not as lm-evaluation-harness writes it"):
        read_lm_eval([folder])


def test_one_name_with_other_arguments_is_another_model(run, tmp_path):
    """Files of one path in two folders, too; a folder named twice is read once."""
    arguments = ("pretrained=some/model", "pretrained=some/model,peft=some/lora")
    for place, text in zip("ab", arguments, strict=True):
        folder = tmp_path / f"lm/{place}/some__model"
        write_harness(folder, config={"model": "hf", "model_args": text})
    found = read_lm_eval([tmp_path / "lm", tmp_path / "lm/a"])
    collection = collect([run], found)
    entries = set(collection.results.entry) - {"one"}
    assert entries == {
        f"some/model ({HARNESS}) [{path}]" for path in ("some/model", "some/model + peft=some/lora")
    }
    assert len({own.run.name for own in found}) == len(found) == 2
    assert not any("measured some cells alike" in note for note in collection.notes)


def test_paths_of_the_harness_are_cut_to_what_tells_models_apart(run, tmp_path):
    for name in ("a", "b"):
        config = {"model": "hf", "model_args": f"pretrained=/home/me/{name}/final,peft=/me/lora"}
        write_harness(tmp_path / "lm" / name, config=config, model_name=f"/home/me/{name}/final")
    entries = set(collect([run], read_lm_eval([tmp_path / "lm"])).results.entry) - {"one"}
    assert entries == {f"final ({HARNESS}) [{name}/final + peft=lora]" for name in "ab"}


def test_prompts_asked_in_another_form_are_another_question(run, tmp_path):
    for place, form in (("a", "0" * 8), ("b", "1" * 8)):
        folder = write_harness(tmp_path / "lm" / place, chat_template_sha=form)
        for samples in folder.glob("samples_*"):
            samples.unlink()
    rows = collect([run], read_lm_eval([tmp_path / "lm"])).rows
    assert len({row.entry for row in rows if row.task == "gsm8k"}) == 2


def test_perplexities_of_files_that_do_not_say_so_are_left_out(run, tmp_path):
    write_harness(tmp_path / "lm", higher_is_better={})
    rows = collect([run], read_lm_eval([tmp_path / "lm"])).rows
    assert not [row.metric for row in rows if row.metric == "word_perplexity"]


def test_exports_side_by_side_keep_their_own_samples(tmp_path):
    cells = [niah_cell(2000, 50, repeats=4)]
    two = write_run(tmp_path / "two", [make_model("x"), make_model("y")], cells, quality=0.6)
    own = {row.entry: row.sample_scores for row in collect([two]).rows if row.metric == "score"}
    for name in "xy":
        export(collect([two]), tmp_path / f"{name}.json", name)
    for name in "xy":
        [imported] = read_lm_eval([tmp_path / f"{name}.json"])
        scores = {row["metric"]: row["sample_scores"] for row in imported.rows}
        assert scores["score"] == pytest.approx(own[name])
    path = two / f"results/x/{cells[0]['abbr']}.json"
    write_json(path, {"score": 61.5, "accuracy": 61.5, "num_samples": 4})
    export(collect([two]), tmp_path / "x.json", "x")
    assert not list(tmp_path.glob("samples_*_x.jsonl")), "of the export before"


def test_data_sets_of_one_name_in_two_runs_are_two_tasks(tmp_path):
    cells = [niah_cell(2000, 50, repeats=4)]
    drawn = [{**cells[0], "draws": "independent"}]
    model = make_model("x")
    runs = [write_run(tmp_path / "a", [model], cells, quality=1.0),
            write_run(tmp_path / "b", [model], drawn, quality=0.0, word="paper")]  # fmt: skip
    collection = collect(runs)
    export(collection, tmp_path / "out/results.json")
    [imported] = read_lm_eval([tmp_path / "out"])
    own = {(row.prompt_hash, row.metric): row.sample_scores for row in collection.rows}
    after = {(row["prompt_hash"], row["metric"]): row["sample_scores"] for row in imported.rows}
    assert len(own) == 4
    assert after == {key: pytest.approx(scores) for key, scores in own.items()}


def test_a_perplexity_is_exported_as_it_is():
    row = SimpleNamespace(sample_scores=(2.0, 3.0), benchmark="perplexity")
    assert (_scale(row), _has_shares(row)) == (1.0, False)


def test_wrong_files_and_names_are_refused(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    write_json(tmp_path / "other" / "results.json", {"scores": 1})
    for folder, told in (("empty", "holds no results"), ("other", "is no results file")):
        words = ["report", str(run), "-o", str(tmp_path / "o"), "--lm-eval", str(tmp_path / folder)]
        assert main(words) == 2
        assert told in capsys.readouterr().err
    two = write_run(tmp_path / "two", [make_model("x"), make_model("y")], [niah_cell(2000, 0)])
    assert main(["export", str(two), "-o", str(tmp_path / "r.json")]) == 2
    assert "--model: x, y" in capsys.readouterr().err
    assert main(["export", str(two), "-o", str(tmp_path / "r.json"), "--model", "z"]) == 2
    assert "Valid: x, y" in capsys.readouterr().err
    assert main(["export", str(two), "-o", str(tmp_path), "--model", "x"]) == 2
    assert "is a folder; give a file in it" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def make_recorder(calls):
    """Return what stands for a tracker's module and run; calls and the run's end are noted."""
    run = MagicMock()
    run.__enter__.return_value = run
    run.__exit__.side_effect = lambda *error: calls.append(("exit", (), {})) or False
    for name in ("init", "log", "set_tracking_uri", "set_experiment", "start_run", "log_metric"):
        own = getattr(run, name)
        own.return_value = run
        own.side_effect = lambda *args, _told=name, **opts: calls.append((_told, args, opts)) or run
    return run


@pytest.mark.parametrize(("kind", "sent"), [("wandb", "log"), ("mlflow", "log_metric")])
def test_scores_go_to_a_tracker_if_asked_for(run, tmp_path, monkeypatch, kind, sent):
    calls = []
    monkeypatch.setitem(sys.modules, kind, make_recorder(calls))
    words = ["report", str(run), "-o", str(tmp_path / "o"), "--log", f"{kind}:place"]
    assert main(words) == 0
    assert "place" in [*calls[0][1], *calls[0][2].values()]
    named = [options.get("name") or options.get("run_name") for _, _, options in calls]
    assert "one" in named
    steps = [options["step"] for name, _, options in calls if name == sent]
    assert steps == sorted(steps), "W&B refuses a step that goes back"
    assert len(steps) > 13
    assert calls[-1][0] == "exit"


def test_lines_whose_names_make_one_folder_are_two_runs(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "wandb", make_recorder(calls))
    scores = [SimpleNamespace(entry=entry, series="S", column="c", length=None, score=1.0, low=None,
                              high=None) for entry in ("a b", "a-b", "c")]  # fmt: skip
    open_tracker("wandb:p")(scores)
    assert [options["name"] for name, _, options in calls if name == "init"] == [
        "a b 1", "a-b 2", "c"
    ]  # fmt: skip


def test_a_missing_score_is_not_sent(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "wandb", make_recorder(calls))
    score = SimpleNamespace(entry="e", series="S: x", column="c", length=None, score=None, low=None,
                            high=None)  # fmt: skip
    open_tracker("wandb:p")([score])
    assert [name for name, _, _ in calls] == ["init", "exit"]


def test_trackers_are_checked_before_anything_is_read(tmp_path, monkeypatch, capsys):
    words = ["report", str(tmp_path), "-o", str(tmp_path), "--log"]  # which holds no run
    assert main([*words, "tensorbord:x"]) == 2
    assert "Did you mean 'tensorboard'" in capsys.readouterr().err
    assert main([*words, "wandb"]) == 2
    assert "wandb:PROJECT" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main([*words, "mlflow:x"]) != 0
    told = capsys.readouterr().err
    assert "pip install mlflow. Nothing was read or written; without --log the report is" in told


def test_tensorboard_reads_what_was_sent(run, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["report", str(run), "-o", str(tmp_path / "o"), "--log", f"tensorboard:{tmp_path}/tb"]
    assert main(words) == 0
    events = EventAccumulator(str(tmp_path / "tb" / "one"))
    events.Reload()
    [point] = events.Scalars("RULER/vt")
    assert point.step == 4096
    [row] = [row for row in collect([run]).rows if row.task == "vt"]
    assert point.value == pytest.approx(row.score)
