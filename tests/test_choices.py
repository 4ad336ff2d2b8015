"""Multiple choice by likelihood: where prompts are cut, and which choice wins."""

import json

import pytest
import torch
from datasets import Dataset, DatasetDict
from opencompass.openicl.icl_dataset_reader import DatasetReader
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import ZeroRetriever
from tiny import MASK_ID, write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint

from opencompass_llada.datasets.choices import (
    ChoicePPLInferencer,
    encode_pair,
    split_endings,
    split_off,
)
from opencompass_llada.likelihood import LikelihoodOptions
from opencompass_llada.wrapper import LLaDACausalLM

ROWS = [
    {"question": "One?", "A": "b", "B": "c", "label": "A", "cont": " the end"},
    {"question": "Two, or more?", "A": "d", "B": "e", "label": "B", "cont": " it is"},
]


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("llada") / "x", seed=3)
    return LLaDACausalLM(str(folder), sampler={"block_length": 8})


@pytest.fixture(scope="module")
def autoregressive(tmp_path_factory):
    return LLaDACausalLM(str(write_llama_checkpoint(tmp_path_factory.mktemp("llama") / "x")))


def retriever(rows=ROWS):
    data = Dataset.from_list(rows)
    reader = DatasetReader(
        DatasetDict({"train": data, "test": data}),
        input_columns=["question", "A", "B"],
        output_column="label",
    )

    class Holder:
        test = data
        train = data

    holder = Holder()
    holder.reader = reader
    return ZeroRetriever(holder)


def choose(model, tmp_path, template, **options):
    inferencer = ChoicePPLInferencer(model=model, **options)
    predictions = inferencer.inference(
        retriever(),
        prompt_template=PromptTemplate(template=template),
        output_json_filepath=str(tmp_path),
        output_json_filename="x.json",
    )
    return predictions, json.loads((tmp_path / "x.json").read_text())


ENDINGS = {"A": "Q: {question}\nAnswer: {A}", "B": "Q: {question}\nAnswer: {B}"}


def diffusion_log_probability(model, context, token_text):
    """Log-probability of the tokens after a context, all masked, from the network itself."""
    prefix = model.encode(context).tolist()
    target = model.encode(context + token_text).tolist()[len(prefix) :]
    ids = torch.tensor([[*prefix, *[MASK_ID] * len(target)]])
    with torch.no_grad():
        logits = model.engine.model(input_ids=ids).logits[0, len(prefix) :].double()
    return [logits.log_softmax(-1)[i, t].item() for i, t in enumerate(target)]


def causal_log_probability(model, text, num_tokens):
    ids = model.encode(text)[None]
    with torch.no_grad():
        logits = model.engine.model(ids).logits[0].double().log_softmax(-1)
    return sum(
        logits[i - 1, ids[0, i]].item() for i in range(ids.shape[1] - num_tokens, ids.shape[1])
    )


def test_an_autoregressive_model_is_scored_exactly(autoregressive, tmp_path):
    predictions, saved = choose(autoregressive, tmp_path, ENDINGS)
    for index, row in enumerate(ROWS):
        scores = saved[str(index)]["log_likelihoods"]
        for label in "AB":
            text = f"Q: {row['question']}\nAnswer: {row[label]}"
            expected = causal_log_probability(autoregressive, text, num_tokens=2)
            assert scores[label] == pytest.approx(expected, abs=1e-4)
        assert predictions[index] == max("AB", key=scores.get)
        assert saved[str(index)]["gold"] == row["label"]


def test_a_choice_of_one_token_takes_one_exact_pass(diffusion):
    """Its only token is masked in every draw."""
    context, ending = "Answer:", "b"
    prefix, target = encode_pair(diffusion, context, ending)
    estimate = diffusion.engine.score(prefix, target, LikelihoodOptions(num_draws=128))
    [expected] = diffusion_log_probability(diffusion, context, ending)
    assert estimate.nll == pytest.approx(-expected, abs=1e-4)
    assert (estimate.num_forward_passes, estimate.variance) == (1, 0.0)


def test_a_diffusion_model_is_scored_by_the_bound_given_the_context(diffusion, tmp_path):
    """Two tokens: the bound is the mean over both orders, which can be written out."""
    row = ROWS[0]
    _, saved = choose(diffusion, tmp_path, ENDINGS, likelihood={"num_draws": 256})
    context = f"Q: {row['question']}\nAnswer:"
    for label in "AB":
        text = f" {row[label]}"
        both = diffusion_log_probability(diffusion, context, text)
        second_after_first = diffusion_log_probability(diffusion, context + text[0], text[1])[0]
        prefix = diffusion.encode(context).tolist()
        ids = torch.tensor([[*prefix, MASK_ID, *diffusion.encode(text[1]).tolist()]])
        with torch.no_grad():
            logits = diffusion.engine.model(input_ids=ids).logits[0, len(prefix)].double()
        first_token = diffusion.encode(text).tolist()[0]
        first_after_second = logits.log_softmax(-1)[first_token].item()
        expected = (both[0] + second_after_first + both[1] + first_after_second) / 2
        assert saved["0"]["log_likelihoods"][label] == pytest.approx(expected, abs=0.25)


def test_characters_normalize(autoregressive, tmp_path):
    _, plain = choose(autoregressive, tmp_path / "a", ENDINGS | {"A": "Q: {question}\nAnswer: xyz"})
    _, normalized = choose(
        autoregressive,
        tmp_path / "b",
        ENDINGS | {"A": "Q: {question}\nAnswer: xyz"},
        normalize="characters",
    )
    first, second = plain["0"]["log_likelihoods"], normalized["0"]["log_likelihoods"]
    assert second["A"] == pytest.approx(first["A"] / 3)
    assert second["B"] == pytest.approx(first["B"])


def test_a_shared_continuation_is_scored_after_different_contexts(autoregressive, tmp_path):
    template = {"A": "{A} was{cont}", "B": "{B} was{cont}"}
    options = {"continuation_column": "cont"}
    inferencer = ChoicePPLInferencer(model=autoregressive, **options)
    source = retriever()
    source.dataset_reader.input_columns.append("cont")
    inferencer.inference(
        source,
        prompt_template=PromptTemplate(template=template),
        output_json_filepath=str(tmp_path),
        output_json_filename="x.json",
    )
    saved = json.loads((tmp_path / "x.json").read_text())
    expected = causal_log_probability(autoregressive, "b was the end", num_tokens=len(" the end"))
    assert saved["0"]["log_likelihoods"]["A"] == pytest.approx(expected, abs=1e-4)


def test_an_interrupted_run_goes_on_where_it_was(autoregressive, tmp_path, monkeypatch):
    predictions, _ = choose(autoregressive, tmp_path / "whole", ENDINGS)
    calls = []
    score = ChoicePPLInferencer._score

    def fail_at_the_second(self, prompts, sample):
        calls.append(sample["question"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(self, prompts, sample)

    monkeypatch.setattr(ChoicePPLInferencer, "_score", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        choose(autoregressive, tmp_path, ENDINGS)
    resumed, saved = choose(autoregressive, tmp_path, ENDINGS)
    assert calls == ["One?", "Two, or more?", "Two, or more?"]
    assert resumed == predictions
    assert saved["0"]["gold"] == "A"


@pytest.mark.parametrize(
    ("prompts", "pairs"),
    [
        (["Sky is blue", "Sky is black"], [("Sky is", " blue"), ("Sky is", " black")]),
        (["Answer: A", "Answer: B"], [("Answer:", " A"), ("Answer:", " B")]),
        (["New York", "New York City"], [("New", " York"), ("New", " York City")]),
        (["x\nthe a", "x\nthe b"], [("x\nthe", " a"), ("x\nthe", " b")]),
        (["是", "否"], [("", "是"), ("", "否")]),
    ],
)
def test_prompts_are_cut_between_two_words(prompts, pairs):
    assert split_endings(prompts) == pairs


def test_a_continuation_is_cut_off_with_the_space_before_it():
    assert split_off("Rita had left.", " had left.") == ("Rita", " had left.")
    assert split_off("Rita's hat.", "'s hat.") == ("Rita", "'s hat.")
    with pytest.raises(ValueError, match="not in the continuation ' other'"):
        split_off("Rita had left.", " other")
    with pytest.raises(ValueError, match="not in the continuation ''"):
        split_off("Rita had left.", "")


def test_what_cannot_be_told_apart_is_refused(autoregressive):
    with pytest.raises(ValueError, match="2 choices with 1 different prompts"):
        split_endings(["a b", "a b"])
    with pytest.raises(ValueError, match="adds no token"):
        encode_pair(autoregressive, "a b", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "character"}, "Did you mean 'characters'"),
        ({"normalise": "characters"}, "Did you mean|Unknown ChoicePPLInferencer option"),
        ({"likelihood": {"draws": 3}}, "Did you mean 'num_draws'"),
        ({"likelihood": {"num_draws": 3}}, "must be even"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ChoicePPLInferencer(model=None, **options)
