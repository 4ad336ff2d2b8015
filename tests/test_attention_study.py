"""The study of three attentions: equal data and first weights, cells measured, tables."""

import argparse
import json
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY_ROOT

FOLDERS = [str(REPOSITORY_ROOT / name) for name in ("studies", "benchmarks")]
sys.path[:0] = FOLDERS

import attention_study  # noqa: E402
import attention_study_report  # noqa: E402

from opencompass_llada.finetune.network import TRAINED  # noqa: E402
from opencompass_llada.finetune.rows import TrainingData  # noqa: E402
from opencompass_llada.finetune.tokens import make_tokenizer  # noqa: E402
from opencompass_llada.networks import load_checkpoint  # noqa: E402


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Return arguments of the smallest cells that are trained and measured."""
    folder = tmp_path_factory.mktemp("study")
    arguments = [str(folder), "--tiny", "--seeds", "0", "--record", str(folder / "record.json")]
    given = attention_study.make_parser().parse_args(arguments)
    given.steps, given.samples, given.ruler_samples, given.step_tokens = 2, 1, 0, 512
    given.lengths, given.ruler_lengths, given.batch_tokens = [256], [], 4096
    attention_study.prepare(given)
    return given


def test_every_attention_gets_the_same_rows_and_the_same_start(given):
    rows, starts = {}, {}
    for attention in attention_study.ATTENTIONS:
        recipe = attention_study.make_recipe((attention, 0), given)
        data = TrainingData(recipe, make_tokenizer(recipe))
        batches = [batch for _, loader in data.phases(NoRanks()) for batch in loader]
        rows[attention] = [batch["input_ids"] for batch in batches]
        starts[attention] = recipe.init_from
        assert batches[0]["block_length"] == attention_study.ATTENTIONS[attention][1]
    assert starts.pop("causal") is None
    assert len(set(starts.values())) == 1
    # The causal twin trains its own tokenizer, on the text that the other's was trained on: in
    # this test a smaller one.
    del rows["causal"]
    first = rows.pop("bidirectional")
    assert [ids.shape for ids in first] == [(4, 128), (1, 512)]
    for others in rows.values():
        assert all(map(torch.equal, others, first))
    start = load_checkpoint(attention_study.start_of(0, given.folder), dtype=torch.float32)
    assert sum(p.numel() for p in start.parameters()) == 3_664_320


class NoRanks:
    """One process."""

    data_rank, num_data_ranks = 0, 1


@pytest.mark.parametrize("attention", ["causal", "block 4", "bidirectional"])
def test_a_cell_is_trained_and_measured(given, attention):
    attention_study.run_cell((attention, 0), given)
    file = attention_study.cell_file((attention, 0), given)
    assert list(TRAINED["block_diffusion"]) == ["sdar"], "outside the study LLaDA has no blocks"
    row = json.loads(file.read_text(encoding="utf-8"))
    assert (row["attention"], row["seed"], row["steps"], row["tokens"]) == (attention, 0, 2, 1024)
    for scaling in ("none", "ntk"):
        assert set(row[scaling]["needle"]["256"]) == {"0", "25", "50", "75", "100"}
        assert row[scaling]["perplexity"]["256"]["perplexity"] > 100, "two steps teach little"
    assert row["none"] != row["ntk"]
    assert row in attention_study.read_cells(given)
    other = argparse.Namespace(**vars(given) | {"steps": 9000})
    with pytest.raises(ValueError, match=r"made with .*'steps': 2.* this call has .*'steps': 9000"):
        attention_study.read_cells(other)


def test_the_tables_are_means_and_ranges_over_seeds():
    def cell(attention, seed, score):
        lengths = [str(n) for n in (512, 1024, 2048)]
        figures = {
            "needle": {n: {"0": score, "100": score} for n in lengths},
            "ruler": {n: {"niah_single_1": score, "vt": 0.0} for n in lengths[:2]},
            "perplexity": {n: {"perplexity": score + 0.25} for n in lengths},
        }
        passes = {kind: {"passes_a_token": 1, "score": score} for kind in ("needle", "ruler")}
        row = {"attention": attention, "seed": seed, "none": figures, "ntk": figures}
        row |= {"steps": 5, "tokens": 50}
        return row | {"passes": {"1 token a pass": passes}}

    rows = [cell("block 4", 1, 40.0), cell("causal", 0, 10.0), cell("block 4", 0, 20.0)]
    headings, table = attention_study_report.make_table(attention_study_report.measure(rows))
    assert [row[:3] for row in table] == [
        ["causal", "none", "1"],
        ["causal", "ntk", "1"],
        ["block 4", "none", "2"],
        ["block 4", "ntk", "2"],
    ]
    found = dict(zip(headings, table[2], strict=True))
    assert found["needle 1024"] == found["RULER 512"] == "30 (20 to 40)"
    assert found["perplexity 2048"] == "30.2 (20.2 to 40.2)"
    with pytest.raises(
        ValueError, match=r"trained for \(steps, tokens\) of \[\(5, 50\), \(6, 50\)\]"
    ):
        attention_study_report.measure([*rows, rows[0] | {"steps": 6}])
    _, passes = attention_study_report.make_passes_table(rows)
    assert passes == [
        ["causal", "1 token a pass", "1.00", "10", "1.00", "10"],
        ["block 4", "1 token a pass", "1.00", "30", "1.00", "30"],
    ]


def test_the_studies_run_where_neither_opencompass_nor_datasets_is():
    script = (
        "import sys\n"
        "for name in ('opencompass', 'mmengine', 'datasets'): sys.modules[name] = None\n"
        f"sys.path[:0] = {FOLDERS!r}\n"
        "import attention_study, finetune_study, needle_grid, ruler_grid, context_perplexity\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
