"""Every family's published format through OpenCompass on needles, RULER and LongBench.

A family joins by its entry in `test_families_published.FAMILIES`: base and chat, one run of each
benchmark's own config for all of them, on the embedded data.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from mmengine.config import Config
from test_families_published import FAMILIES, TEMPLATE
from tiny_choices import model_config, plain

from opencompass_llada.runs.tasks import CellByCellEvalTask, ShortNamedInferTask

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
LENGTH = "700"
#: Benchmark -> its config and what it is run with: tiny checkpoints read a token a byte.
BENCHMARKS = {
    "niah": ("eval_llada_niah.py", {"DEPTHS": "50", "REPEATS": "1", "GENERATION_LENGTH": "8"}),
    "ruler": (
        "eval_llada_ruler.py",
        {"TASKS": "niah_single_1", "SAMPLES": "1", "GENERATION_LENGTH": "8"},
    ),
    "longbench": ("eval_llada_long.py", {"TASKS": "hotpotqa,trec", "SAMPLES": "1"}),
}
KINDS = ("base", "chat")


def list_data_sets(benchmark: str, tokenizer: Path) -> list[dict]:
    """Return the cells of a benchmark's config for one tiny model, as a dump holds them."""
    file, settings = BENCHMARKS[benchmark]
    settings = {"MODELS": "tiny_llada", "SCALING": "none", "LENGTHS": LENGTH, **settings}
    if benchmark != "longbench":
        settings["TOKENIZER"] = str(tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LLADA_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(f"LLADA_{name}", value)
        cfg = Config.fromfile(str(CONFIGS / file), format_python_code=False)
    return list({cell["abbr"]: cell for cell in cfg._cfg_dict.to_dict()["datasets"]}.values())


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    """One run of all families, base and chat, on all benchmarks."""
    root = tmp_path_factory.mktemp("benchmarks")
    (root / "template.jinja").write_text(TEMPLATE)
    models = []
    for name, family in FAMILIES.items():
        path = family.write(root / name)
        for kind in KINDS:
            chat = {"template": str(root / "template.jinja")} if kind == "chat" else None
            limit = {"max_seq_len": int(LENGTH), "drop_middle": True}
            own = model_config(path, dtype="float32", chat=chat, **limit)
            models.append({**own, "abbr": f"{name}-{kind}"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENCOMPASS_LLADA_CACHE", str(root / "cache"))
        cells = [c for name in BENCHMARKS for c in list_data_sets(name, root / "llada")]
        cfg = plain({"models": models, "datasets": [cells] * len(models)})
        cfg["work_dir"] = str(root / "run")
        cfg["eval"] = {"runner": {"task": {"dump_details": True}}}
        for task in (ShortNamedInferTask, CellByCellEvalTask):
            task(Config(json.loads(json.dumps(cfg)))).run()
    return root / "run"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_an_answer_and_a_score_in_every_cell(work_dir, name, kind):
    folders = [work_dir / stage / f"{name}-{kind}" for stage in ("predictions", "results")]
    answers, scores = (
        {f.stem: json.loads(f.read_text()) for f in d.glob("*.json")} for d in folders
    )
    assert answers.keys() == scores.keys()
    counts = [
        sum(cell.startswith(start) for cell in answers) for start in ("niah", "ruler", "long")
    ]
    assert counts == [1, 1, 2]
    for cell, samples in answers.items():
        values = [v for v in scores[cell].values() if isinstance(v, int | float)]
        assert values, cell
        assert all(0 <= value <= 100 for value in values), cell
        is_chat = kind == "chat" and "trec" not in cell  # LongBench asks its few-shot tasks bare
        for sample in samples.values():
            assert isinstance(sample["prediction"], str)
            assert str(sample["origin_prompt"]).startswith("[user]") == is_chat, cell
            assert str(sample["origin_prompt"]).endswith("[assistant] ") == is_chat, cell


def test_models_answer_in_their_own_way(work_dir):
    """The runs are not vacuous; a random network may give base and chat prompts one answer."""
    answers = [
        tuple(
            json.loads(path.read_text())["0"]["prediction"]
            for path in sorted(folder.glob("*.json"))
        )
        for folder in (work_dir / "predictions").iterdir()
    ]
    assert len(answers) == len(KINDS) * len(FAMILIES)
    assert len(set(answers)) >= len(FAMILIES)
