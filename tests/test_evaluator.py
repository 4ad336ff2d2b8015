"""NeedleBench's keyword score: equal to the stock one, and refused when a sample is missing."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from needle_data import FILES, write_needlebench
from opencompass.datasets.needlebench.origin import NeedleBenchOriginEvaluator
from tiny import tiny_tokenizer

from opencompass_llada.benchmarks.needle.dataset import NeedleBenchEvaluator, score_answer
from opencompass_llada.runs.tasks import CellByCellEvalTask

REFERENCE = "\nThe item hidden on the Isle is the Ruby Lamp.\n*Ruby Lamp"
ANSWERS = [
    "the Ruby Lamp.",
    "The item hidden on the Isle is the Ruby  Lamp.",
    "the ruby lamp",
    "",
    "   \n ",
    "the Emerald Lamp.",
    "Ruby\nLamp",
    "\ufffd\ufffd 红宝石灯",
    "x" * 400,
]
CHINESE = "\n翡翠岛上隐藏着传说中的魔法之源。\n*魔法之源"


def stock_scores(predictions, references, capsys):
    result = NeedleBenchOriginEvaluator().score(predictions=predictions, gold=references)
    capsys.readouterr()  # it prints every sample
    return result


@pytest.mark.parametrize("reference", [REFERENCE, CHINESE])
def test_score_equals_the_stock_evaluator(reference, capsys):
    answers = [*ANSWERS, "魔法之源", "魔法", reference.split("*")[0]]
    references = [reference] * len(answers)
    stock = stock_scores(answers, references, capsys)
    ours = NeedleBenchEvaluator().score(answers, references)
    assert ours["score"] == pytest.approx(stock["score"], abs=1e-9)
    for detail, theirs in zip(ours["details"], stock["details"], strict=True):
        assert detail["score"] == pytest.approx(theirs["score"], abs=1e-9)
        assert detail["edit_distance"] == theirs["edit_distance"]
    assert {detail["correct"] for detail in ours["details"]} == {True, False}


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_score_equals_stock_on_any_text(prediction):
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        stock = NeedleBenchOriginEvaluator().score([prediction], [REFERENCE])
    ours = NeedleBenchEvaluator().score([prediction], [REFERENCE])
    assert ours["score"] == pytest.approx(stock["score"], abs=1e-9)


def test_accuracy_is_the_keyword_hit_rate():
    result = NeedleBenchEvaluator().score(ANSWERS[:4], [REFERENCE] * 4)
    assert result["accuracy"] == 25  # case and spaces count
    assert result["num_samples"] == 4
    assert result["score"] > result["accuracy"]  # part credit for a near miss


def test_details_hold_the_answer_as_the_model_gave_it():
    detail = score_answer(" a  b ", "\nneedle\n", "b")
    assert detail["prediction"] == " a  b "
    assert detail["needle"] == "needle"
    assert detail["correct"] is True


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_number_of_predictions_raises(count):
    with pytest.raises(ValueError, match=f"{count} predictions for 2 samples"):
        NeedleBenchEvaluator().score(["a"] * count, [REFERENCE] * count, test_set=[1, 2])


def test_no_prediction_at_all_is_no_score():
    with pytest.raises(ValueError, match="no score"):
        NeedleBenchEvaluator().score([], [])


@pytest.fixture
def eval_run(tmp_path):
    """A run's folder with predictions for three cells, and the config of its evaluation task."""
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    path = write_needlebench(tmp_path / "data")
    cells = [
        {
            "abbr": f"cell{number}",
            "type": "opencompass_llada.benchmarks.needle.dataset.NeedleBenchSingleDataset",
            "path": str(path),
            "length": 1200,
            "depth": 50 * number,
            "tokenizer": str(tmp_path / "tokenizer"),
            "file_list": [FILES["English"]],
            "num_repeats_per_file": 4,
            "length_buffer": "fit",
            "guide": False,
            "language": "English",
            "reader_cfg": {"input_columns": ["prompt"], "output_column": "answer"},
            "infer_cfg": {},
            "eval_cfg": {
                "evaluator": {
                    "type": "opencompass_llada.benchmarks.needle.dataset.NeedleBenchEvaluator"
                },
                "pred_role": "BOT",
            },
        }
        for number in range(3)
    ]
    cfg = Config(
        {
            "models": [{"type": "unused", "abbr": "model"}],
            "datasets": [cells],
            "work_dir": str(tmp_path / "run"),
            "eval": {"runner": {"task": {"dump_details": True}}},
        }
    )
    return tmp_path / "run", cfg


def write_predictions(run, name, count):
    folder = run / "predictions" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        str(i): {"origin_prompt": "", "prediction": f"Stone{i}", "gold": "x"} for i in range(count)
    }
    (folder / f"{name}.json").write_text(json.dumps(rows))


def test_lost_shard_and_lost_file_cost_only_their_own_cells(eval_run, caplog):
    run, cfg = eval_run
    # cell0: no predictions at all; cell1: the second of two shards is lost; cell2: complete.
    write_predictions(run, "cell1_0", 2)
    write_predictions(run, "cell2", 4)
    with pytest.raises(RuntimeError, match="2 data sets.*cell0.*cell1"):
        CellByCellEvalTask(cfg).run()
    results = {path.stem for path in (run / "results" / "model").glob("*.json")}
    assert results == {"cell2"}
    result = json.loads((run / "results" / "model" / "cell2.json").read_text())
    assert result["num_samples"] == 4
    assert len(result["details"]) == 4
    assert {"prediction", "needle", "keyword", "score"} <= set(result["details"][0])


def test_rerun_after_the_shard_is_back_completes(eval_run):
    run, cfg = eval_run
    write_predictions(run, "cell1_0", 2)
    for name in ("cell0", "cell2"):
        write_predictions(run, name, 4)
    with pytest.raises(RuntimeError, match="1 data sets"):
        CellByCellEvalTask(cfg).run()
    write_predictions(run, "cell1_1", 2)
    CellByCellEvalTask(cfg).run()
    assert len(list((run / "results" / "model").glob("*.json"))) == 3


def test_task_runs_as_a_module_so_that_its_folder_is_not_on_the_path(eval_run):
    _, cfg = eval_run
    command = CellByCellEvalTask(cfg).get_command("task.py", "CUDA_VISIBLE_DEVICES= {task_cmd}")
    assert command.startswith("CUDA_VISIBLE_DEVICES= ")
    assert command.endswith("-m opencompass_llada.runs.tasks task.py")
