"""PPL-mode data sets through OpenCompass's tasks: our option inferencer and the two of its own."""

import json
import math

import pytest
import torch
from opencompass.openicl.icl_inferencer import LLInferencer, PPLInferencer
from tiny import write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint
from tiny_chat import write_chat_checkpoint
from tiny_choices import ROWS, choices, model_config, run

from opencompass_llada.benchmarks.short.inferencer import OptionScoringInferencer, make_scorer
from opencompass_llada.wrapper import LLaDACausalLM


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("options")


@pytest.fixture(scope="module")
def llama(folders):
    return str(write_llama_checkpoint(folders / "llama"))


@pytest.fixture(scope="module")
def llada(folders):
    return str(write_tiny_checkpoint(folders / "llada"))


def predictions(work_dir, abbr="choices"):
    found = json.loads((work_dir / f"predictions/tiny/{abbr}.json").read_text())
    return [found[str(index)] for index in range(len(found))]


def result(work_dir, abbr="choices"):
    return json.loads((work_dir / f"results/tiny/{abbr}.json").read_text())


def accuracy(labels):
    return 100 * sum(x == row["answer"] for x, row in zip(labels, ROWS, strict=True)) / len(ROWS)


def text_of(row, option):
    return f"Q: {row['question']}\nA: {row[option]}"


def nats(model, text):
    """Nats of every token after the first, from the network's whole output."""
    ids = model.encode(text).tolist()
    logits = model.engine.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [-logits[i, token].item() for i, token in enumerate(ids[1:])]


def by_hand(model, row, per=lambda losses: 1):
    """The option whose rest, after the bytes that both begin with, is likeliest."""
    texts = [text_of(row, option) for option in "AB"]
    same = next(
        (i for i, pair in enumerate(zip(*texts, strict=False)) if len(set(pair)) > 1),
        min(map(len, texts)) - 1,
    )
    values = []
    for text in texts:
        rest = nats(model, text)[same - 1 :]
        values.append(sum(rest) / per(rest))
    return values


@pytest.mark.parametrize("per", ["option", "token"])
def test_autoregressive_options_are_exact_through_opencompass(llama, tmp_path, per):
    run(tmp_path, model_config(llama), [choices(OptionScoringInferencer, per=per)])
    model = LLaDACausalLM(llama)
    labels = []
    for row, found in zip(ROWS, predictions(tmp_path), strict=True):
        values = by_hand(model, row, len if per == "token" else lambda losses: 1)
        written = [found[f"label: {label}"] for label in "AB"]
        assert [entry["PPL"] for entry in written] == pytest.approx(values, rel=1e-5)
        assert [entry["num_forward_passes"] for entry in written] == [1, 1]
        assert written[1]["prompt"] == text_of(row, "B")
        assert found["gold"] == row["answer"]
        assert found["prediction"] == "AB"[values.index(min(values))]
        labels.append(found["prediction"])
    assert result(tmp_path)["accuracy"] == pytest.approx(accuracy(labels))


def test_diffusion_options_share_condition_and_masks(llada, tmp_path):
    options = {"likelihood": {"num_draws": 8, "seed": 3}}
    run(tmp_path, model_config(llada), [choices(OptionScoringInferencer, **options)])
    scorer = LLaDACausalLM(llada, likelihood={"num_draws": 8, "seed": 3}).scorer
    found = predictions(tmp_path)
    for row, entry in zip(ROWS, found, strict=True):
        estimates = scorer.score_options([text_of(row, option) for option in "AB"])
        for label, estimate in zip("AB", estimates, strict=True):
            assert entry[f"label: {label}"]["nll"] == pytest.approx(estimate.nll, rel=1e-6)
        assert entry["prediction"] == "AB"[estimates[1].nll < estimates[0].nll]
    sky = found[0]
    assert sky["label: B"]["num_tokens"] == 1, "B's text begins A's: one token is left to score"
    assert sky["label: B"]["num_forward_passes"] == 1
    assert sky["label: A"]["num_forward_passes"] == 8
    assert sky["label: A"]["nll_standard_error"] > 0


def test_opencompass_own_inferencers_run_on_both_kinds(llama, llada, tmp_path):
    for path in (llama, llada):
        work_dir = tmp_path / path.rsplit("/", 1)[-1]
        model = model_config(path, likelihood={"num_draws": 4})
        sets = [choices(PPLInferencer), choices(LLInferencer, abbr="ll")]
        template = sets[1]["infer_cfg"]["prompt_template"]["template"]
        template["A"], template["B"] = "{question} {A} {cont}", "{question} {B} {cont}"
        run(work_dir, model, sets)
        for abbr in ("choices", "ll"):
            labels = [entry["prediction"] for entry in predictions(work_dir, abbr)]
            assert result(work_dir, abbr)["accuracy"] == pytest.approx(accuracy(labels))
    model = LLaDACausalLM(llama)
    for row, entry in zip(ROWS, predictions(tmp_path / "llama"), strict=True):
        losses = nats(model, text_of(row, "A"))
        assert entry["label: A"]["PPL"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    for row, entry in zip(ROWS, predictions(tmp_path / "llama", "ll"), strict=True):
        losses = nats(model, f"{row['question']} {row['B']} end")[-3:]
        (value,) = (v for k, v in entry["label: B"].items() if k.lower() == "loglikelihood")
        assert value == pytest.approx(-sum(losses), rel=1e-5)


def test_a_run_that_was_cut_off_goes_on(llada, tmp_path, monkeypatch):
    likelihood = {"num_draws": 4}
    sets = [choices(OptionScoringInferencer, batch_size=1, likelihood=likelihood)]
    run(tmp_path / "whole", model_config(llada), sets)
    scored = []
    original = OptionScoringInferencer._score_sample

    def score(self, *arguments):
        scored.append(arguments[-2])
        if len(scored) == 3:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(OptionScoringInferencer, "_score_sample", score)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", model_config(llada), sets)
    folder = tmp_path / "cut/predictions/tiny"
    assert [file.name for file in folder.iterdir()] == ["tmp_choices.jsonl"]
    run(tmp_path / "cut", model_config(llada), sets)
    assert scored == [0, 1, 2, 2], "the first two samples are not scored again"
    assert [file.name for file in folder.iterdir()] == ["choices.json"]
    assert predictions(tmp_path / "cut") == predictions(tmp_path / "whole")


def test_examples_in_context_are_left_out_until_a_sample_fits(llada, tmp_path):
    options = {"num_shots": 2, "likelihood": {"num_draws": 4}}
    sets = [choices(OptionScoringInferencer, **options)]
    run(tmp_path / "free", model_config(llada), sets)
    both = predictions(tmp_path / "free")[0]["origin_prompt"]
    first, second = text_of(ROWS[0], "A"), text_of(ROWS[1], "B")
    assert [both.count(text) for text in (first, second)] == [2, 1]
    limit = len(both) - 1
    run(tmp_path / "tight", model_config(llada, max_seq_len=limit), sets)
    tight = predictions(tmp_path / "tight")[0]["origin_prompt"]
    assert [tight.count(text) for text in (first, second)] == [2, 0]


def test_a_chat_model_is_scored_inside_its_template(folders, tmp_path):
    path = write_chat_checkpoint(folders / "chat")
    sets = [choices(OptionScoringInferencer, num_shots=1), choices(PPLInferencer, abbr="ppl")]
    run(tmp_path, model_config(path, chat=True, likelihood={"num_draws": 4}), sets)
    text = predictions(tmp_path)[1]["label: B"]["prompt"]
    user, assistant = (
        f"<|start_header_id|>{r}<|end_header_id|>\n\n" for r in ("user", "assistant")
    )
    assert text == (
        f"<|startoftext|>{user}Q: sky<|eot_id|>{assistant}A: is blue<|eot_id|>"
        f"{user}Q: grass is<|eot_id|>{assistant}A: green"
    )
    assert math.isfinite(predictions(tmp_path, "ppl")[1]["label: B"]["PPL"])


def test_a_model_of_opencompass_own_is_scored_too(llama):
    ours = LLaDACausalLM(llama)

    class Theirs:
        """What HuggingFaceBaseModel has."""

        model = ours.engine.model
        tokenizer = ours.tokenizer

    texts = [text_of(ROWS[0], option) for option in "AB"]
    theirs = make_scorer(Theirs, None, None).score_options(texts)
    assert [e.nll for e in theirs] == [e.nll for e in ours.scorer.score_options(texts)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "word"}, "Unknown per 'word'"),
        ({"lables": ["A"]}, "Did you mean 'labels'"),
        ({"likelihood": {"draws": 4}}, "Did you mean 'num_draws'"),
        ({"labels": ["A"]}, "at least two"),
    ],
)
def test_wrong_options_are_refused(llada, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, model_config(llada), [choices(OptionScoringInferencer, **options)])
