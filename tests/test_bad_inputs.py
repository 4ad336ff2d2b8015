"""Every bad input ends in one paragraph that names it, before weights load; good ones are taken."""

import csv
from dataclasses import replace
from pathlib import Path

import bad_inputs
import pytest
from bad_inputs import CASES, run_case
from mmengine.config import ConfigDict
from numpy import float64, int64
from tiny import write_tiny_checkpoint

from opencompass_llada import cli
from opencompass_llada.report import paper_figures
from opencompass_llada.runs import doctor

GOOD: dict[str, str] = {
    "as it is": "",
    "numpy integers": "model.update(max_out_len=int64(16), batch_size=int64(2), seed=int64(3))",
    "numpy numbers of the sampler": "model['sampler'] = dict(num_steps=int64(8), block_length=int64(8), temperature=float64(0.5))",  # noqa: E501
    "integers for floats": "model['sampler'] = dict(temperature=1, cfg_scale=0, num_steps=8, block_length=8)",  # noqa: E501
    "a path": "model['path'] = Path(model['path'])",
    "a tokenizer's path": "model['tokenizer_path'] = Path(model['path'])",
    "a scaling with integers": "model['rope_scaling'] = dict(type='ntk', theta_multiplier=4)",
    "a scaling with numpy's numbers": "model['rope_scaling'] = dict(type='ntk', target_length=int64(128))",  # noqa: E501
    "a list of divisors": "model['rope_scaling'] = dict(type='longrope', target_length=128, long_factor=[1]*8, short_factor=[1.0]*8)",  # noqa: E501
    "a ConfigDict": "model['sampler'] = ConfigDict(num_steps=8, block_length=8)",  # noqa: E501
    "one stop word": "model['stop_words'] = 'end'",
    "several stop words": "model['stop_words'] = ('end', 'stop')",
    "None for defaults": "model.update(seed=None, batch_size=None, max_seq_len=None, truncation=None)",  # noqa: E501
    "a depth that is an integer": "dataset['depth'] = int64(50)",
    "a list of files as a tuple": "dataset['file_list'] = tuple(dataset['file_list'])",
    "the papers' form": "del model['sampler']; model['diffusion_config'] = dict(steps=8, block_length=8, gen_length=16, mask_id=258)",  # noqa: E501
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("inputs") / "tiny")


def describe_fault(case, outcome, folder):
    """Return what is wrong with how a bad input ended; '' for nothing."""
    text = outcome.text.replace(str(folder.parent), "")
    if outcome.status == 0:
        return "accepted"
    for words in ("this is a bug in opencompass_llada", "Traceback"):
        if words in text:
            return words
    missing = [word for word in case.words if word not in text]
    return f"lacks {missing}" if missing else ""


def groups():
    return [bad_inputs.__dict__[name] for name in bad_inputs.GROUPS]


@pytest.mark.parametrize("group", groups(), ids=lambda group: group.__name__)
def test_bad_inputs_are_refused_in_one_paragraph(group, tmp_path, checkpoint, repository_root):
    faults, cases = [], list(group())
    for number, case in enumerate(cases):
        if case.config is not None:
            case = replace(case, config=case.config.replace("ROOT", str(repository_root)))
        folder = tmp_path / str(number)
        outcome = run_case(case, folder, checkpoint)
        if fault := describe_fault(case, outcome, folder):
            faults.append(f"{case.name}: {fault}: {outcome.text[-300:]}")
    assert not faults, "\n".join(faults)
    assert cases


def test_the_table_is_large_and_names_each_case_once():
    assert len(CASES) > 500
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("name", GOOD)
def test_good_inputs_are_taken(name, checkpoint):
    kind, cell = bad_inputs.CELLS["needle"]
    sampler = {"block_length": 8, "num_steps": 8}
    model = {
        **{"type": "opencompass_llada.wrapper.LLaDACausalLM", "abbr": "tiny"},
        **{"path": str(checkpoint), "max_out_len": 16, "sampler": sampler},
    }
    dataset = {"type": f"opencompass_llada.benchmarks.{kind}", "abbr": "data", **cell}
    names = {"int64": int64, "float64": float64, "Path": Path, "ConfigDict": ConfigDict}
    exec(GOOD[name], {**names, "model": model, "dataset": dataset})
    doctor.check_config({"models": [model], "datasets": [dataset]}, runs_locally=True)


@pytest.mark.parametrize("value", [900, "HUGE"])
def test_a_wrong_number_of_a_result_is_shown_nowhere(value, tmp_path, capsys):
    bad_inputs.edit_result(accuracy=value, score=value)(tmp_path)
    words = [word.replace("FOLDER", str(tmp_path)) for word in bad_inputs.REPORT]
    assert cli.main(words) == 1
    with (tmp_path / "report/results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["length"] == "2000"]
    assert rows
    assert {row["score"] for row in rows} == {""}
    assert "99999" not in (tmp_path / "report/leaderboard.md").read_text().replace("9" * 116, "")


@pytest.mark.parametrize(
    "content",
    ["", "a,b\n", "HEADER", b"\xff\xfe", "FIRST" + "a,b\n", "NUMBER", "NAN", "TRUST", "\0"],
)
def test_damaged_published_figures_are_named(content, tmp_path, monkeypatch):
    lines = paper_figures.FILE.read_text().splitlines(keepends=True)
    first = "".join(lines[:2])
    known = {
        "HEADER": first.replace("value", "number"), "FIRSTa,b\n": first + "a,b\n",
        "NUMBER": first.replace("14.94", "14,94"), "NAN": first.replace("14.94", "nan"),
        "TRUST": first.replace("primary", "primar"),
    }  # fmt: skip
    content = known.get(content, content)
    file = tmp_path / "published_figures.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setattr(paper_figures, "FILE", file)
    paper_figures.read_figures.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"published_figures\.csv, line \d.*install the pack"):
            paper_figures.read_figures()
    finally:
        paper_figures.read_figures.cache_clear()
