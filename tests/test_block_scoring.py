"""Scoring through the wrapper and OpenCompass: block-causal models, and options by confidence."""

import json
from copy import deepcopy

import pytest
import torch
from mmengine.config import Config
from opencompass.openicl.icl_inferencer import LLInferencer, PPLInferencer
from opencompass.tasks import OpenICLInferTask
from prompt_capture import plain
from tiny import write_tiny_checkpoint
from tiny_choices import ROWS, choices, model_config, run
from tiny_experts import write_tiny_llada2
from tiny_fast_dllm import write_tiny_fast_dllm
from tiny_sdar import write_tiny_sdar

from opencompass_llada.benchmarks.perplexity.inferencer import parse_likelihood_options
from opencompass_llada.benchmarks.short.inferencer import OptionScoringInferencer
from opencompass_llada.likelihood import MaskedScorer, entropies_from_logits
from opencompass_llada.runs.planning import list_data_sets
from opencompass_llada.runs.tasks import CellByCellEvalTask
from opencompass_llada.wrapper import LLaDACausalLM

EXACT = {"num_draws": 16}
"""All 15 masks of a block of four."""


@pytest.fixture(scope="module")
def sdar(tmp_path_factory):
    return str(write_tiny_sdar(tmp_path_factory.mktemp("sdar")))


@pytest.fixture(scope="module")
def llada(tmp_path_factory):
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("llada")))


@pytest.fixture(scope="module")
def model(sdar):
    return LLaDACausalLM(sdar, likelihood=EXACT)


def block_by_block(model, prefix, target, length=4):
    """Nats of a target: each block's by itself, in rows that end with the block."""
    network, text = model.engine.model, [*prefix, *target]
    mask = model.special_tokens.mask_token_id
    scorer = MaskedScorer(entropies_from_logits(network.logits_at), mask)
    total = 0.0
    for start in range(len(prefix) // length * length, len(text), length):
        first, end = max(start, len(prefix)), min(start + length, len(text))
        total += scorer.enumerate_bound(text[:first], text[first:end], 64).nll
    return total


def test_the_wrapper_scores_texts_endings_and_options(model):
    texts = ["hello there", "abc", "a much longer text that has many blocks"]
    for text, score in zip(texts, model.get_ppl(texts), strict=True):
        ids = model.encode(text).tolist()
        assert score == pytest.approx(block_by_block(model, [], ids) / len(ids), rel=1e-5)
    [given] = model.get_ppl(texts[2:], mask_length=[6])
    ids = model.encode(texts[2]).tolist()
    exact = block_by_block(model, ids[:6], ids[6:]) / len(ids[6:])
    assert given == pytest.approx(exact, rel=1e-5)
    [score] = model.get_loglikelihood(["The sky is blue"], [" is blue"])
    ids, end = (model.encode(text).tolist() for text in ("The sky is blue", " is blue"))
    exact = block_by_block(model, ids[: -len(end)], end)
    assert -score == pytest.approx(exact, rel=1e-5)

    letters = model.scorer.score_options([f"The answer is {letter}" for letter in "ABCD"])
    assert [estimate.num_forward_passes for estimate in letters] == [1, 0, 0, 0]
    ids = model.encode("The answer is C").tolist()
    row = torch.tensor([[*ids[:-1], model.special_tokens.mask_token_id]])
    logits = model.engine.model(row).logits[0, -1].double().log_softmax(-1)
    assert letters[2].nll == pytest.approx(-logits[ids[-1]].item(), rel=1e-5)
    pair = model.scorer.score_options(["it is blue", "it is green"])
    ids = model.encode("it is green").tolist()
    rest = pair[1].num_tokens
    exact = block_by_block(model, ids[:-rest], ids[-rest:])
    assert pair[1].nll == pytest.approx(exact, rel=1e-5)


def test_scoring_and_generation_take_turns_with_one_cache(sdar, model):
    prompts, texts = ["hello", "a longer prompt of several blocks"], ["hello there, you"]
    alone = LLaDACausalLM(sdar).generate(prompts, max_out_len=8)
    for _ in range(2):
        score = model.get_ppl(texts)[0]
        assert model.generate(prompts, max_out_len=8) == alone
        assert model.get_ppl(texts)[0] == score


def test_other_blocks_of_one_checkpoint_are_scored_as_such(sdar):
    other = LLaDACausalLM(sdar, attention_block=2, likelihood=EXACT)
    ids = other.encode("hello there").tolist()
    exact = block_by_block(other, [], ids, length=2) / len(ids)
    assert other.get_ppl(["hello there"])[0] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("write", [write_tiny_fast_dllm, write_tiny_llada2])
def test_other_block_causal_families_are_scored_alike(write, tmp_path):
    """A network whose logits are a position early, and a mixture of experts."""
    other = LLaDACausalLM(
        str(write(tmp_path / "model")), dtype="float32", likelihood={"num_draws": 32}
    )
    length = other.engine.server.causal_block
    text = "a text of more than thirty-two tokens, whose end lies in a block or two"
    for end in ("two", "r two"):
        ids = other.encode(text).tolist()
        estimate = other.scorer.score_continuation(text, end)
        border = len(ids) - estimate.num_tokens
        exact = block_by_block(other, ids[:border], ids[border:], length)
        assert estimate.nll == pytest.approx(exact, rel=1e-5)


def predictions(work_dir, abbr):
    found = json.loads((work_dir / f"predictions/tiny/{abbr}.json").read_text())
    return [found[str(index)] for index in range(len(found))]


def test_opencompass_inferencers_score_block_causal_models(sdar, model, tmp_path):
    sets = [choices(OptionScoringInferencer, abbr="options"), choices(PPLInferencer, abbr="ppl"),
            choices(LLInferencer, abbr="ll")]  # fmt: skip
    template = sets[2]["infer_cfg"]["prompt_template"]["template"]
    template["A"], template["B"] = "{question} {A} {cont}", "{question} {B} {cont}"
    run(tmp_path, model_config(sdar, likelihood=EXACT), sets)
    for row, found in zip(ROWS, predictions(tmp_path, "options"), strict=True):
        texts = [f"Q: {row['question']}\nA: {row[label]}" for label in "AB"]
        estimates = model.scorer.score_options(texts)
        nats = [found[f"label: {label}"]["nll"] for label in "AB"]
        assert nats == pytest.approx([estimate.nll for estimate in estimates], rel=1e-6)
        assert found["prediction"] == "AB"[nats[1] < nats[0]]
    for row, found in zip(ROWS, predictions(tmp_path, "ppl"), strict=True):
        [score] = model.get_ppl([f"Q: {row['question']}\nA: {row['A']}"])
        assert found["label: A"]["PPL"] == pytest.approx(score, rel=1e-6)


def test_the_perplexity_benchmark_takes_block_causal_models(sdar, model, tmp_path):
    cells = list_data_sets("perplexity", lengths=(16, 34), draws=16, texts=2, target="9")
    cfg = plain({"models": [model_config(sdar)], "datasets": cells, "work_dir": str(tmp_path)})
    for kind in (OpenICLInferTask, CellByCellEvalTask):
        kind(Config(deepcopy({**cfg, "datasets": [cells]}))).run()
    [first, _] = (predictions(tmp_path, cell["abbr"]) for cell in cells)
    [estimate] = json.loads(first[0]["prediction"])
    assert (estimate["num_tokens"], estimate["variance"]) == (9, 0.0)
    assert estimate["num_forward_passes"] == 15
    result = json.loads((tmp_path / f"results/tiny/{cells[1]['abbr']}.json").read_text())
    assert result["estimator"] == "bound"
    assert result["num_tokens"] == 18
    assert 0 < result["nll_per_token"] < 50


@pytest.mark.parametrize("kind", ["llada", "sdar"])
def test_options_are_scored_by_confidence_if_asked(kind, request, tmp_path):
    path = request.getfixturevalue(kind)
    by_option = choices(OptionScoringInferencer, likelihood={"estimator": "confidence"})
    by_model = choices(OptionScoringInferencer, abbr="model")
    confident = {"likelihood": {"estimator": "confidence"}}
    run(tmp_path / "option", model_config(path, likelihood={"num_draws": 4}), [by_option])
    run(tmp_path / "model", model_config(path, **confident), [by_model])
    model = LLaDACausalLM(path, **confident)
    network, mask = model.engine.model, model.special_tokens.mask_token_id
    found = predictions(tmp_path / "option", "choices")
    assert found == predictions(tmp_path / "model", "model")
    row, entry = ROWS[1], found[1]  # "red" and "green" differ from their first token on
    text, prompt = (f"Q: {row['question']}\nA: {end}" for end in (row["B"], ""))
    ids, first = model.encode(text).tolist(), len(model.encode(prompt).tolist())
    total, length = 0.0, 4 if kind == "sdar" else len(ids)
    for start in range(first // length * length, len(ids), length):
        begin, end = max(start, first), min(start + length, len(ids))
        known = [*ids[:begin], *[mask] * (end - begin)]
        while mask in known:
            logits = network(torch.tensor([known])).logits[0].double().log_softmax(-1)
            hidden = [place for place, token in enumerate(known) if token == mask]
            best = max(hidden, key=lambda place: logits[place, ids[place]].item())
            total, known[best] = total - logits[best, ids[best]].item(), ids[best]
    assert entry["label: B"]["nll"] == pytest.approx(total, rel=1e-5)
    assert entry["label: B"]["nll_standard_error"] == 0


def test_confidence_is_refused_where_a_likelihood_is_asked_for():
    with pytest.raises(ValueError, match=r"bounds no likelihood; use 'bound'"):
        parse_likelihood_options({"estimator": "confidence"}, 1)
