"""Perplexity through OpenCompass: cells, curves, and what a lost cell does."""

import csv
import json
import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from opencompass.registry import ICL_INFERENCERS
from opencompass.tasks import OpenICLInferTask
from prompt_capture import plain
from tiny import MASK_ID, tiny_tokenizer, write_tiny_checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from opencompass_llada.benchmarks.perplexity.inferencer import (
    PerplexityEvaluator,
    find_scorer,
    read_estimates,
    write_estimates,
)
from opencompass_llada.benchmarks.perplexity.samples import (
    PerplexityDataset,
    WindowOptions,
    cut_windows,
    read_texts,
)
from opencompass_llada.likelihood import (
    Estimate,
    LikelihoodOptions,
    MaskedScorer,
    entropies_from_logits,
)
from opencompass_llada.options import build
from opencompass_llada.report.curves import read_curves
from opencompass_llada.report.summarizers import PerplexitySummarizer
from opencompass_llada.runs.run_folder import describe_model
from opencompass_llada.runs.tasks import CellByCellEvalTask
from opencompass_llada.wrapper import LLaDACausalLM

ROOT = Path(__file__).resolve().parents[1]
MAIN = ROOT / "configs/eval_llada_ppl.py"
LENGTHS = (16, 32, 64)


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch):
    import os

    for name in [*os.environ]:
        if name.startswith("LLADA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def texts(**options):
    return read_texts(PerplexityDataset.check_options(**options))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=128)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def make_cells(**options):
    from opencompass_llada.runs.planning import list_data_sets

    return list_data_sets("perplexity", **{"lengths": LENGTHS, "draws": 4, "texts": 2, **options})


def make_run(tmp_path, models, cells):
    cfg = plain(dict(models=models, datasets=cells, work_dir=str(tmp_path)))
    task = dict(cfg, datasets=[cells for _ in models])
    for kind in (OpenICLInferTask, CellByCellEvalTask):
        kind(Config(deepcopy(plain(task)))).run()
    return Config(cfg)


def ours(checkpoint, **options):
    return dict(type=LLaDACausalLM, abbr="tiny", path=str(checkpoint), batch_size=3,
                run_cfg=dict(num_gpus=0), **options)  # fmt: skip


def read_rows(work_dir):
    with (work_dir / "summary/perplexity_now.csv").open() as lines:
        return list(csv.DictReader(lines))


def test_a_run_gives_the_estimators_numbers_and_a_lost_cell_is_missing(
    checkpoint, llama, tmp_path, caplog
):
    stock = dict(type="opencompass.models.HuggingFaceBaseModel", abbr="llama", path=str(llama),
                 max_out_len=1, run_cfg=dict(num_gpus=0),
                 model_kwargs=dict(device_map=None, torch_dtype="torch.float32"))  # fmt: skip
    cfg = make_run(tmp_path, [ours(checkpoint), stock], make_cells(target="8"))
    PerplexitySummarizer(cfg).summarize("now")
    rows = read_rows(tmp_path)
    assert [(row["model"], int(row["length"])) for row in rows] == [
        (model, length) for model in ("tiny", "llama") for length in LENGTHS
    ]
    assert {row["num_tokens"] for row in rows} == {"16"}, "the same 2 x 8 tokens everywhere"
    assert [row["num_forward_passes"] for row in rows] == ["8"] * 3 + ["2"] * 3
    assert [row["estimator"] for row in rows] == ["bound"] * 3 + ["autoregressive"] * 3
    assert all(float(row["standard_error"]) > 0 for row in rows[:3])
    assert all(float(row["standard_error"]) == 0 for row in rows[3:])
    check_against_the_estimator(checkpoint, rows[1])
    assert (tmp_path / "summary/perplexity_now.png").stat().st_size > 10_000
    apart = list(csv.DictReader((tmp_path / "report/comparisons.csv").open()))
    assert [(row["num_pairs"], row["metric"]) for row in apart] == [("2", "nats a token")] * 3
    nats = [float(row["nll_per_token"]) for row in rows]
    assert [float(row["difference"]) for row in apart] == pytest.approx(
        [llama - tiny for tiny, llama in zip(nats[:3], nats[3:], strict=True)]
    )

    lost = tmp_path / "results/tiny" / f"{rows[1]['dataset']}.json"
    lost.unlink()
    with pytest.raises(SystemExit) as stop:
        PerplexitySummarizer(cfg).summarize("now")
    assert stop.value.code == 1
    row = read_rows(tmp_path)[1]
    assert (row["status"], row["perplexity"]) == ("missing", "")
    assert rows[1]["dataset"] in caplog.text


def check_against_the_estimator(checkpoint, row):
    """Repeat one point without OpenCompass."""
    model = LLaDACausalLM(str(checkpoint), batch_size=3)
    entropies = entropies_from_logits(model.engine.model.logits_at)
    total, options = 0.0, LikelihoodOptions(num_draws=4)
    for text in texts(path="generated", num_texts=2, extended_at="start"):
        window = model.encode(text["text"]).tolist()
        scorer = MaskedScorer(entropies, MASK_ID)
        estimate = scorer.draw_bound(window[-32:-8], window[-8:], options)
        total += estimate.nll
    assert float(row["nll_per_token"]) == pytest.approx(total / 16, rel=1e-4)
    # Byte-level tokens: a token is a byte.
    bits = float(row["bits_per_byte"])
    assert bits == pytest.approx(float(row["nll_per_token"]) / math.log(2), rel=1e-4)


def test_longllada_points_are_running_means_and_a_gap_loses_all_after_it(checkpoint, tmp_path):
    lengths = (128, 192, 320)
    cells = make_cells(lengths=lengths, estimator="longllada", draws=2, texts=1)
    cfg = make_run(tmp_path, [ours(checkpoint)], cells)
    models = [describe_model(model) for model in cfg["models"]]
    points = list(read_curves(cfg, tmp_path, models).itertuples())
    # All but the first chunk of 64, as in LongLLaDA's script; nothing is scored twice.
    assert [point.num_tokens for point in points] == [length - 64 for length in lengths]
    assert [point.num_forward_passes for point in points] == [2, 4, 8]
    results = [
        json.loads((tmp_path / "results/tiny" / f"{cell['abbr']}.json").read_text())
        for cell in cells
    ]
    running = sum(result["nll"] for result in results[:2]) / 128
    assert points[1].nll_per_token == pytest.approx(running)
    assert {point.estimator for point in points} == {"longllada"}
    (tmp_path / "results/tiny" / f"{cells[1]['abbr']}.json").unlink()
    points = list(read_curves(cfg, tmp_path, models).itertuples())
    assert [point.status for point in points] == ["ok", "missing", "missing"]
    assert cells[1]["abbr"] in points[2].reason


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({"target": "whole"}, (16, 32, 64)),
        ({"target": "8"}, (16, 32, 64)),
        ({"target": "8", "windows": 3}, (16, 32, 64)),
        ({"target": "whole", "windows": 2}, (16, 32, 64)),
        ({"estimator": "longllada"}, (128, 256, 384)),
    ],
)
@pytest.mark.parametrize("source", ["generated", "texts.jsonl"])
def test_a_point_is_the_same_whatever_the_other_lengths_are(tmp_path, options, lengths, source):
    if source != "generated":
        rows = [{"text": f"{number} " + "a text of some length " * (20 + 9 * number)} for number
                in range(4)]  # fmt: skip
        source = str(tmp_path / source)
        Path(source).write_text("\n".join(map(json.dumps, rows)))
    encode, alone = tiny_tokenizer(), {}

    def scored(cells):
        found = {}
        for cell in cells:
            rows = PerplexityDataset.load(**{
                key: value for key, value in cell.items()
                if key not in ("abbr", "type", "reader_cfg", "infer_cfg", "eval_cfg")
            })  # fmt: skip
            window = build(WindowOptions, cell["infer_cfg"]["inferencer"]["window"], "window")
            found[cell["length"]] = [
                pair
                for row in rows
                for pair in cut_windows(encode(row["text"])["input_ids"], window)
            ]
        return found

    together = scored(make_cells(lengths=lengths, data=source, **options))
    for length in lengths:
        alone |= scored(make_cells(lengths=[length], data=source, **options))
    if "estimator" in options:  # segments: those up to a length make up what it alone scores
        alone = {length: [target for _, target in alone[length]] for length in lengths}
        parts = {
            length: [sum(targets, []) for targets in zip(*(
                [target for _, target in together[other]] for other in lengths if other <= length
            ), strict=True)]
            for length in lengths
        }  # fmt: skip
        assert parts == alone
    else:
        assert together == alone
    if options.get("target") == 8:
        assert len({str([target for _, target in pairs]) for pairs in alone.values()}) == 1
    with pytest.raises(ValueError, match="use 128"):
        make_cells(lengths=[100], estimator="longllada")


def test_bits_per_byte_count_the_bytes_of_the_tokens_where_windows_cut_characters(
    checkpoint, tmp_path
):
    path = tmp_path / "text.txt"
    path.write_text("模型在长文本上的困惑度应当按字节计算" * 9)
    models, score = [ours(checkpoint)], {}
    for length in (16, 64):
        cells = make_cells(data=str(path), lengths=[length], texts=1, windows=6)
        make_run(tmp_path / str(length), models, cells)
        (file,) = (tmp_path / f"{length}/results/tiny").glob("*.json")
        score[length] = json.loads(file.read_text())
        # A token of the tiny tokenizer is a byte, wherever it stands.
        assert score[length]["num_bytes"] == score[length]["num_tokens"] == 6 * length
    assert score[16]["bits_per_byte"] == pytest.approx(score[16]["nll_per_token"] / math.log(2))


def test_a_resumed_cell_scores_only_what_is_left(checkpoint, tmp_path, monkeypatch):
    cells = make_cells(target="whole", lengths=(16,), texts=3)
    cfg = Config(dict(models=[ours(checkpoint)], datasets=[cells], work_dir=str(tmp_path)))

    calls, score = [], MaskedScorer.score

    def stop_at_third(self, prefix, target, options):
        calls.append(target)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(self, prefix, target, options)

    monkeypatch.setattr(MaskedScorer, "score", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        OpenICLInferTask(deepcopy(cfg)).run()
    OpenICLInferTask(deepcopy(cfg)).run()
    assert len(calls) == 4
    (file,) = (tmp_path / "predictions/tiny").iterdir()
    assert set(json.loads(file.read_text())) == {"0", "1", "2"}


def test_torn_or_missing_predictions_are_no_score():
    estimate = Estimate(estimator="bound", nll=20.0, variance=1.0, degrees_of_freedom=3.0,
                        num_tokens=10, num_draws=4, num_forward_passes=4)  # fmt: skip
    good = write_estimates([estimate, estimate], [30, 30])
    assert read_estimates(good) == [(estimate, 30)] * 2
    score = PerplexityEvaluator().score([good])
    assert score["perplexity"] == pytest.approx(math.exp(2))
    assert score["bits_per_byte"] == pytest.approx(2 / math.log(2) / 3)
    assert score["standard_error"] == pytest.approx(math.sqrt(2) / 20)
    assert score["perplexity_low"] < score["perplexity"] < score["perplexity_high"]
    for bad in (good[:-5], "[]", "text", "[3]"):
        with pytest.raises(ValueError, match="inference again"):
            PerplexityEvaluator().score([bad])
    with pytest.raises(ValueError, match="1 predictions for 2 samples"):
        PerplexityEvaluator().evaluate(1, 1, [0, 1], predictions=[good], references=None)


def test_a_model_without_logits_is_refused(checkpoint):
    model = LLaDACausalLM(str(checkpoint), tokenizer_only=True)
    with pytest.raises(ValueError, match="LLaDACausalLM gives no access"):
        find_scorer(model)
    cell = make_cells()[0]
    inferencer = {**cell["infer_cfg"]["inferencer"], "model": model}
    inferencer["likelihood"] = {"num_drws": 4}
    with pytest.raises(ValueError, match="Did you mean 'num_draws'"):
        ICL_INFERENCERS.build(inferencer)
