"""The papers' own evaluations: the rows and settings of the papers' configs, and a demo of each."""

from pathlib import Path

import pytest
from mmengine.config import Config
from prompt_capture import received_prompts
from ruler_data import STOCK, write_ruler

import opencompass_llada.assets
from opencompass_llada.runs import papers
from opencompass_llada.runs.checks import check_options
from opencompass_llada.runs.model_configs import ModelTable
from opencompass_llada.runs.papers import PAPERS
from opencompass_llada.runs.planning import plan_run

ROOT = Path(__file__).resolve().parents[1]
LLAMA = ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct")
LLADA = ("GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-8B-Instruct", "GSAI-ML/LLaDA-1.5")
DREAM = ("Dream-org/Dream-v0-Base-7B", "Dream-org/Dream-v0-Instruct-7B")
BASE, ULTRA = "GSAI-ML/LLaDA-8B-Base", "relaxe-system-lab/UltraLLaDA"
# (path, lambda, steps, block length, new tokens), read from the tuples of the papers' configs.
EXPECTED = {
    ("longllada", "niah"): {
        *((path, factor, None, None, 32) for path in LLAMA for factor in (1, 4, 13)),
        *((path, 1, steps, 32, 32) for path in LLADA for steps in (1, 2, 4, 8, 16, 32)),
        *((path, factor, 32, 32, 32) for path in LLADA for factor in (4, 14, 31, 55)),
        *((path, 1, steps, None, 32) for path in DREAM for steps in (1, 8, 16, 32)),
        *((path, 5, 32, None, 32) for path in DREAM),
    },
    ("longllada", "ruler"): {
        *((path, factor, None, None, 64) for path in LLAMA for factor in (1, 4, 13)),
        *((path, factor, 64, 64, 64) for path in LLADA for factor in (1, 4, 14, 31)),
        *((path, factor, 64, None, 64) for path in DREAM for factor in (1, 5)),
    },
    ("longllada", "longbench"): {
        *((path, 1, None, None, 512) for path in LLAMA),
        *((path, factor, 512, 64, 512) for path in LLADA for factor in (1, 4)),
        *((path, factor, 512, None, 512) for path in DREAM for factor in (1, 5)),
    },
    ("ultrallada", "niah"): {(path, 1, 16, 32, 32) for path in (BASE, ULTRA)},
    ("ultrallada", "ruler"): {(path, 1, 64, 64, 64) for path in (BASE, ULTRA)},
    ("ultrallada", "longbench"): {(path, 1, 512, 64, 512) for path in (BASE, ULTRA)},
}
FILES = sorted(path.stem for path in (ROOT / "configs/papers").glob("[!_]*.py"))


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith("LLADA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def row_of(config):
    sampler = config.get("sampler", {})
    factor = config["rope_scaling"].get("theta_multiplier", 1)
    steps, block = sampler.get("num_steps"), sampler.get("block_length")
    return (config["path"], factor, steps, block, config["max_out_len"])


def test_each_of_the_six_has_its_file():
    assert sorted(f"{paper}_{benchmark}" for paper, benchmark in EXPECTED) == FILES


@pytest.mark.parametrize(("paper", "benchmark"), EXPECTED)
def test_rows_are_those_of_the_papers_configs(paper, benchmark):
    rows = papers.list_rows(PAPERS[paper][benchmark], benchmark)
    names = {row["model"] for row in rows}
    configs = ModelTable().list_configs(names, benchmark=benchmark, rows=rows)
    assert len(configs) == len(rows) == len(EXPECTED[paper, benchmark])
    assert {row_of(config) for config in configs} == EXPECTED[paper, benchmark]
    assert {config["seed"] for config in configs} == {2025}
    assert {config["batch_size"] for config in configs} == {1}
    assert len({config["abbr"] for config in configs}) == len(configs)
    for config in configs:
        wanted = "bfloat16" if config["path"] in DREAM else "float16"
        assert config["dtype"] == wanted


def test_dreams_prompts_begin_with_bos_where_nothing_is_cut_in_the_middle():
    """The repository's wrapper: ``bos_token + prompt`` unless drop_middle."""
    for benchmark in ("niah", "ruler", "longbench"):
        rows = papers.list_rows(PAPERS["longllada"][benchmark], benchmark)
        names = {row["model"] for row in rows}
        for config in ModelTable().list_configs(names, benchmark=benchmark, rows=rows):
            wanted = config["path"] in DREAM and benchmark != "longbench"
            assert config.get("add_bos", False) == wanted


def test_ultralladas_ruler_prompts_are_opencompass_own(monkeypatch, tmp_path):
    """Byte for byte what the stock data sets give a model without a template: a line break ends."""
    folder = write_ruler(tmp_path / "ruler")
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", "none")
    settings = dict(PAPERS["ultrallada"]["ruler"].settings, models=["llada_8b_base"],
                    lengths=[4500], samples=1, tasks=["vt", "fwe"], data=str(folder),
                    tokenizer="asset:tiny-llada")  # fmt: skip
    plan = plan_run("ruler", settings, num_gpus=0, announce=False)
    assert all("chat" not in model for model in plan.models)
    stock = []
    for entry in Config.fromfile(str(STOCK))["ruler_datasets"]:
        if entry["abbr"] in ("ruler_vt_4k", "ruler_fwe_4k"):
            path = str(opencompass_llada.assets.resolve_asset("asset:tiny-llada"))
            entry.update(max_seq_length=4500, num_samples=1, tokenizer_model=path)
            stock.append(entry)
    ours, theirs = received_prompts(plan.datasets), received_prompts(stock)
    assert sorted(ours) == sorted(theirs)
    assert all(prompt.rstrip().endswith("are:") and prompt.endswith("\n") for prompt in ours)


def test_runs_of_other_steps_have_titles_of_their_own():
    """Or a run of 1 step would stand beside the paper's figure for 32."""
    rows = papers.list_rows(PAPERS["longllada"]["niah"], "niah")
    rows = [row for row in rows if (row["model"], row["scaling"]) == ("llada_8b_base", "none")]
    configs = ModelTable().list_configs(["llada_8b_base"], benchmark="niah", rows=rows)
    assert [told["title"] for told in ModelTable().describe(configs)] == [
        "LLaDA-8B-Base",
        *(f"LLaDA-8B-Base, steps {number}" for number in (1, 2, 4, 8, 16)),
    ]


def test_lengths_samples_and_truncation_are_the_papers():
    niah = PAPERS["ultrallada"]["niah"].settings
    assert niah["lengths"] == [8192 * k for k in range(1, 17)]
    assert (niah["repeats"], niah["tokenizer"], niah["data"]) == (10, "gpt-4", "needlebench")
    assert PAPERS["longllada"]["niah"].settings == {
        **niah,
        "lengths": [2000, 4000, 8000, 16000, 24000, 32000],
    }
    assert PAPERS["longllada"]["ruler"].settings["lengths"] == [4096, 8192, 16384]
    assert PAPERS["ultrallada"]["ruler"].settings["samples"] == 100
    # UltraLLaDA runs OpenCompass's own RULER configs; LongLLaDA's cuts the answer turn.
    prompts = {paper: PAPERS[paper]["ruler"].settings["prompt"] for paper in PAPERS}
    assert prompts == {"longllada": "base", "ultrallada": "opencompass"}
    assert {PAPERS[paper]["ruler"].settings["fwe"] for paper in PAPERS} == {"published"}
    assert PAPERS["longllada"]["longbench"].settings["lengths"] == [3500, 7500]
    longbench = PAPERS["ultrallada"]["longbench"].settings
    assert (longbench["lengths"], longbench["output_lengths"]) == ([16000], "repositories")


@pytest.mark.parametrize("name", FILES)
def test_the_demo_needs_nothing_and_passes_the_checks(name, monkeypatch, tmp_path):
    monkeypatch.setenv("LLADA_DEMO", "1")
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    file = str(ROOT / f"configs/papers/{name}.py")
    cfg = Config.fromfile(file, format_python_code=False)
    check_options(cfg, runs_locally=True)
    assert {model["path"] for model in cfg["models"]} <= {"asset:tiny-llada", "asset:tiny-ar"}
    scalings = {model["rope_scaling"]["type"] for model in cfg["models"]}
    assert scalings == ({"none", "ntk"} if name.startswith("longllada") else {"none"})
    cfg.dump(str(tmp_path / "x.py"))
    assert Config.fromfile(str(tmp_path / "x.py"))["work_dir"] == f"outputs/{name}"


def test_the_demo_has_the_autoregressive_twin_where_it_is_shipped(monkeypatch, tmp_path):
    rows = papers.list_rows(PAPERS["longllada"]["niah"], "niah")
    (tmp_path / "tiny-llada").mkdir()
    monkeypatch.setattr(opencompass_llada.assets, "FOLDER", tmp_path)
    assert {row["model"] for row in papers.demo_rows(rows)} == {"tiny_llada"}
    (tmp_path / "tiny-ar").mkdir()
    assert [(row["model"], row["scaling"]) for row in papers.demo_rows(rows)] == [
        ("tiny_ar", "none"),
        ("tiny_ar", "ntk"),
        ("tiny_llada", "none"),
        ("tiny_llada", "ntk"),
    ]


def test_variables_choose_among_the_papers_rows(monkeypatch):
    rows = papers.list_rows(PAPERS["longllada"]["ruler"], "ruler")
    monkeypatch.setenv("LLADA_MODELS", "llada_8b_base, llada_1_5=/my/copy")
    monkeypatch.setenv("LLADA_SCALING", "none,ntk:theta_multiplier=31")
    chosen = papers.choose_rows(rows)
    assert [(row["model"], row["scaling"]) for row in chosen] == [
        ("llada_8b_base", "none"),
        ("llada_8b_base", "ntk:theta_multiplier=31"),
        ("llada_1_5=/my/copy", "none"),
        ("llada_1_5=/my/copy", "ntk:theta_multiplier=31"),
    ]
    names = [row["model"] for row in chosen]
    paths = [c["path"] for c in ModelTable().list_configs(names, benchmark="ruler", rows=chosen)]
    assert paths == [BASE, BASE, "/my/copy", "/my/copy"]
    monkeypatch.setenv("LLADA_MODELS", "ultrallada")
    with pytest.raises(ValueError, match="Unknown model of this evaluation 'ultrallada'"):
        papers.choose_rows(rows)
    monkeypatch.setenv("LLADA_MODELS", "llada_8b_base")
    monkeypatch.setenv("LLADA_SCALING", "ntk:theta_multiplier=55")
    with pytest.raises(ValueError, match="Unknown scaling of this evaluation"):
        papers.choose_rows(rows)


def test_the_papers_precision_can_be_overridden(monkeypatch):
    monkeypatch.setenv("LLADA_DEMO", "1")
    monkeypatch.setenv("LLADA_DTYPE", "bfloat16")
    cfg = Config.fromfile(str(ROOT / "configs/papers/ultrallada_longbench.py"))
    assert {model["dtype"] for model in cfg["models"]} == {"bfloat16"}


@pytest.mark.parametrize("name", ["niah", "ruler", "long", "ppl"])
def test_the_demo_replaces_what_a_config_asks_for(name, monkeypatch, tmp_path):
    """Whatever a user wrote into the settings, LLADA_DEMO=1 runs."""
    text = (ROOT / f"configs/eval_llada_{name}.py").read_text()
    text = text.replace('    models=["tiny_llada"],\n', "")
    assert text.count("\nsettings = dict(\n") == 1
    text = text.replace(
        "\nsettings = dict(\n", '\nsettings = dict(\n    models=["llada_8b_base"],\n'
    )
    text = text.replace("from .helpers", "from opencompass_llada.configs.helpers")
    (tmp_path / "edited.py").write_text(text)
    monkeypatch.setenv("LLADA_DEMO", "1")
    cfg = Config.fromfile(str(tmp_path / "edited.py"), format_python_code=False)
    assert {model["path"] for model in cfg["models"]} == {"asset:tiny-llada"}
