"""Likelihoods of texts through the wrapper, by hand and by enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
from tiny import MASK_ID, tiny_model, write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint
from tiny_chat import write_chat_checkpoint

from opencompass_llada.engines import MaskedDiffusionEngine, SamplerSettings
from opencompass_llada.likelihood import (
    LikelihoodOptions,
    MaskedScorer,
    entropies_from_logits,
    parse_scoring,
)
from opencompass_llada.likelihood.masks import is_enumerable
from opencompass_llada.likelihood.texts import split_options
from opencompass_llada.prompting.truncate import PromptTooLongError
from opencompass_llada.sampling import SpecialTokens
from opencompass_llada.wrapper import LLaDACausalLM


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("scoring")


@pytest.fixture(scope="module")
def diffusion(folders):
    path = str(write_tiny_checkpoint(folders / "llada"))
    return LLaDACausalLM(path, likelihood={"num_draws": 16})


@pytest.fixture(scope="module")
def causal(folders):
    return LLaDACausalLM(str(write_llama_checkpoint(folders / "llama")))


def chain_rule(model, ids):
    """Nats of each token after the first, from the network's whole output."""
    logits = model.engine.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [-logits[i, token].item() for i, token in enumerate(ids[1:])]


def order_average(network, prefix, target):
    """The bound as the mean over all orders of the chain rule's sum."""
    losses = {}
    for hidden in itertools.product([False, True], repeat=len(target)):
        row = [*prefix, *(MASK_ID if h else t for t, h in zip(target, hidden, strict=True))]
        out = network(torch.tensor([row])).logits[0, len(prefix) :].double().log_softmax(-1)
        losses[hidden] = [-out[i, t].item() for i, t in enumerate(target)]
    totals = []
    for order in itertools.permutations(range(len(target))):
        hidden, total = [True] * len(target), 0.0
        for place in order:
            total += losses[tuple(hidden)][place]
            hidden[place] = False
        totals.append(total)
    return sum(totals) / len(totals)


def test_autoregressive_texts_are_exact(causal):
    texts = ["hello there", "abc"]
    scores = causal.get_ppl(texts)
    by_hand = [chain_rule(causal, causal.encode(text).tolist()) for text in texts]
    assert isinstance(scores, np.ndarray)
    np.testing.assert_allclose(scores, [np.mean(losses) for losses in by_hand], rtol=1e-5)
    masked = causal.get_ppl(texts, mask_length=[6, 1])
    np.testing.assert_allclose(masked, [np.mean(by_hand[0][5:]), np.mean(by_hand[1])], rtol=1e-5)
    assert causal.get_ppl_from_template(texts).tolist() == scores.tolist()


def test_autoregressive_continuations_are_exact(causal):
    scores = causal.get_loglikelihood(["hello there", "hello you"], [" there", "you"])
    first = chain_rule(causal, causal.encode("hello there").tolist())
    second = chain_rule(causal, causal.encode("hello you").tolist())
    np.testing.assert_allclose(scores, [-sum(first[-6:]), -sum(second[-3:])], rtol=1e-5)


def test_short_diffusion_targets_are_exact(diffusion):
    text, cont = "The sky is blu", "blu"
    ids = diffusion.encode(text).tolist()
    exact = order_average(diffusion.engine.model, ids[:-3], ids[-3:])
    assert -diffusion.get_loglikelihood([text], [cont])[0] == pytest.approx(exact, rel=1e-5)
    estimate = diffusion.scorer.score_continuation(text, cont)
    assert (estimate.num_forward_passes, estimate.variance) == (7, 0.0)
    one = diffusion.scorer.score_continuation(text, "u")
    assert one.num_forward_passes == 1, "the one token of an answer takes one pass"


def test_longer_diffusion_targets_lie_within_four_standard_errors(diffusion):
    ids = diffusion.encode("The sky is blu").tolist()
    exact = order_average(diffusion.engine.model, ids[:-6], ids[-6:])
    scorer = diffusion.scorer.with_options({"num_draws": 62})
    estimate = scorer.score_continuation("The sky is blu", "is blu")
    assert estimate.num_forward_passes == 62, "one draw less than there are masks"
    error = estimate.standard_error * 6
    assert 0 < error < 0.1 * exact
    assert abs(estimate.nll - exact) < 4 * error
    whole = diffusion.get_ppl(["is blu"], mask_length=[0])[0]
    exact = order_average(diffusion.engine.model, [], ids[-6:]) / 6
    assert abs(whole - exact) < 4 * diffusion.scorer.score_text("is blu").standard_error


@pytest.mark.parametrize("kind", ["diffusion", "causal"])
def test_one_token_options_take_one_pass_together(kind, request):
    model = request.getfixturevalue(kind)
    texts = [f"The answer is {letter}" for letter in "ABCD"]
    together = model.scorer.score_options(texts)
    assert [e.num_forward_passes for e in together] == [1, 0, 0, 0]
    alone = [-model.get_loglikelihood([text], [text[-1]])[0] for text in texts]
    np.testing.assert_allclose([e.nll for e in together], alone, rtol=1e-5)
    ids = model.encode(texts[2]).tolist()
    row = [*ids[:-1], MASK_ID] if kind == "diffusion" else ids[:-1]
    logits = model.engine.model(torch.tensor([row])).logits[0, -1].double().log_softmax(-1)
    assert together[2].nll == pytest.approx(-logits[ids[-1]].item(), rel=1e-5)
    assert len({e.nll for e in together}) == 4


@pytest.mark.parametrize("prefix", [[], [2, 0, 0, 1]])
def test_enumeration_is_the_average_over_orders_and_the_mean_of_the_draws(prefix):
    small = {"vocab_size": 5, "embedding_size": 5, "mask_token_id": 4, "eos_token_id": 3}
    network = tiny_model(seed=3, **small, pad_token_id=3, init_std=0.6)
    target = [1, 3, 0, 2]
    entropies = entropies_from_logits(network.logits_at)
    options = LikelihoodOptions(num_draws=4000, batch_size=256)
    exact = MaskedScorer(entropies, 4).score(prefix, target, options)
    drawn = MaskedScorer(entropies, 4).draw_bound(prefix, target, options)
    error = drawn.standard_error * len(target)
    assert abs(drawn.nll - exact.nll) < 4 * error < 0.05 * exact.nll
    assert (exact.num_draws, exact.variance, exact.degrees_of_freedom) == (15, 0.0, math.inf)


def test_when_masks_are_enumerated():
    options = LikelihoodOptions(num_draws=128)
    assert [is_enumerable(n, options) for n in (1, 7, 8, 4000)] == [True, True, False, False]
    assert not is_enumerable(1, LikelihoodOptions(estimator="longllada"))


def masks_of(prefix, target, **options):
    """The masks that the engine draws, as sets of places."""
    network = tiny_model(seed=3)
    seen = []
    original = network.hidden_states

    def hidden_states(ids_BL, lengths, positions_BP):
        places_BP = (ids_BL == MASK_ID).nonzero().tolist()
        seen.extend(tuple(place) for place in places_BP)
        return original(ids_BL, lengths, positions_BP)

    network.hidden_states = hidden_states
    tokens = SpecialTokens(mask_token_id=MASK_ID, eos_token_id=256)
    engine = MaskedDiffusionEngine(network, SamplerSettings({}), tokens)
    engine.scorer.score(prefix, target, LikelihoodOptions(num_draws=8, batch_size=8), **options)
    return seen


def test_targets_of_one_length_and_key_are_masked_alike():
    first = masks_of([1, 2], list(range(30, 42)), draw_key=[1, 2])
    assert first == masks_of([1, 2], list(range(50, 62)), draw_key=[1, 2])
    assert first != masks_of([1, 2], list(range(50, 62)), draw_key=[1, 3])
    assert masks_of([1, 2], list(range(30, 42))) != masks_of([1, 2], list(range(50, 62)))


def test_draws_and_seed_are_configurable_and_repeatable(diffusion):
    path = diffusion.options.path
    text = "a longer text than all of its masks"
    default = LLaDACausalLM(path)
    assert default.scorer.score_text(text).num_forward_passes == 128
    assert diffusion.scorer.score_text(text).num_forward_passes == 16
    score = diffusion.get_ppl([text])
    assert diffusion.get_ppl([text]).tolist() == score.tolist()
    other = LLaDACausalLM(path, likelihood={"num_draws": 16, "seed": 1})
    assert other.get_ppl([text]) != score
    rows = LLaDACausalLM(path, likelihood={"num_draws": 16, "batch_size": 3})
    np.testing.assert_allclose(rows.get_ppl([text]), score, rtol=1e-5)


def test_borders_as_in_the_docstrings():
    so = ["So", "_the", "_sum", "_is"]
    names = [[*so, "_12"], [*so, "_1"]]
    ids = {name: i for i, name in enumerate(sorted({n for row in names for n in row}))}
    rows = [[ids[name] for name in row] for row in names]
    assert split_options(rows) == (rows[0][:4], [[ids["_12"]], [ids["_1"]]])
    assert split_options([[1, 2, 3], [1, 2, 4, 5]]) == ([1, 2], [[3], [4, 5]])
    assert split_options([[1, 2], [1, 2, 3]]) == ([1], [[2], [2, 3]])
    assert split_options([[1, 2], [1, 2]]) == ([1], [[2], [2]])
    assert split_options([[1], [2]]) == ([], [[1], [2]])
    with pytest.raises(ValueError, match="no tokens"):
        split_options([[1], []])


def test_a_chat_template_stands_before_what_is_scored(folders):
    model = LLaDACausalLM(write_chat_checkpoint(folders / "chat"), chat=True)
    text = model.parse_template("is it <|eot_id|>? yes", mode="ppl")
    ids = model.encode(text).tolist()
    assert model.tokenizer.decode(ids[-3:]) == "yes"
    exact = order_average(model.engine.model, ids[:-3], ids[-3:])
    for given in (text, str(text)):
        assert -model.get_loglikelihood([given], ["yes"])[0] == pytest.approx(exact, rel=1e-5)
    plain = "is it <|eot_id|>? yes"
    assert model.get_ppl([plain], [len(ids) - 1]) == model.get_ppl([text], [len(ids) - 1])
    start = model.scorer.score_text(text)
    assert start.num_tokens == len(ids) - 1, "the beginning of sequence is given, not scored"


def test_only_the_condition_is_shortened(folders, diffusion):
    path = diffusion.options.path
    texts = ["abcdefgh" + end for end in ("xyz", "uvw")]
    strict = LLaDACausalLM(path, max_seq_len=6)
    with pytest.raises(PromptTooLongError, match="raise|Raise max_seq_len"):
        strict.get_loglikelihood(texts[:1], ["xyz"])
    cut = LLaDACausalLM(path, max_seq_len=6, truncation="left")
    expected = diffusion.get_loglikelihood(["fghxyz"], ["xyz"])
    np.testing.assert_allclose(cut.get_loglikelihood(texts[:1], ["xyz"]), expected, rtol=1e-6)
    assert len(cut.scorer.score_options(texts)) == 2
    with pytest.raises(PromptTooLongError, match="11 tokens are to be scored and max_seq_len=6"):
        cut.get_ppl(texts[:1])


def test_what_cannot_be_scored_is_refused(diffusion, causal):
    with pytest.raises(ValueError, match="does not end in its continuation 'x'"):
        diffusion.get_loglikelihood(["ab"], ["x"])
    with pytest.raises(ValueError, match="2 tokens, of which 2 are given"):
        diffusion.get_ppl(["ab"], mask_length=[2])
    with pytest.raises(ValueError, match="0 tokens"):
        diffusion.get_ppl([""])
    with pytest.raises(ValueError, match="begin differently"):
        causal.scorer.score_options(["ab", "cd"])
    assert len(diffusion.scorer.score_options(["ab", "cd"])) == 2
    with pytest.raises(NotImplementedError, match="Use PPLInferencer"):
        diffusion.get_ppl_tokenwise(["ab"])
    tokens = LLaDACausalLM(diffusion.options.path, tokenizer_only=True)
    with pytest.raises(RuntimeError, match="tokenizer_only"):
        tokens.get_ppl(["ab"])


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        ({"num_draw": 4}, "Did you mean 'num_draws'"),
        ({"num_draws": 5}, "num_draws=5 must be even"),
        ({"estimator": "longllada"}, "Unknown likelihood estimator 'longllada'"),
        ({"estimator": "confidence", "num_draws": 8}, "draws nothing; leave it out"),
        ({"estimator": 5}, r"likelihood\['estimator'\]=5 must be"),
        ({"seed": 1.5}, r"likelihood\['seed'\]=1.5 must be an integer"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        (128, "must be a dict"),
    ],
)
def test_wrong_options_are_refused_before_any_file_is_opened(likelihood, message):
    with pytest.raises(ValueError, match=message):
        LLaDACausalLM("no/such/folder/anywhere", likelihood=likelihood)
    with pytest.raises(ValueError, match=message):
        parse_scoring(likelihood)


@pytest.mark.parametrize("kind", ["diffusion", "causal"])
def test_options_that_part_within_a_character_count_its_bytes(kind, request):
    """The two share two of three bytes; each rest was counted as U+FFFD, which takes three."""
    scorer = request.getfixturevalue(kind).scorer
    texts = ["It is 你", "It is 佣"]
    assert texts[0].encode()[:-1] == texts[1].encode()[:-1]
    for text, estimate in zip(texts, scorer.score_options(texts), strict=True):
        assert estimate.num_tokens == 1
        assert scorer.count_scored_bytes(text, estimate) == 1
