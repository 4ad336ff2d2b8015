"""Confident acceptance rules against their papers' formulas; early stop leaves answers alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from toy_denoiser import TOKENS, VOCABULARY, ToyDenoiser

from opencompass_llada.prompting.truncate import cut_at_stop_strings, cut_is_settled
from opencompass_llada.sampling import SamplerConfig, early_stop, sample
from opencompass_llada.sampling.schedule import StepPlan
from opencompass_llada.sampling.unmasking import (
    ACCEPTANCE_RULES,
    AcceptanceOptions,
    AcceptanceRule,
    StepContext,
)

PROMPTS = [[3, 1, 4, 1, 5], [2, 7, 1, 8, 2, 8], [9]]
RULES = [
    ("threshold", 0.35),
    ("factor", 1.3),
    ("entropy_bound", 1.5),
    ("token_entropy_bound", 0.7),
]


def context(scores, logits=None, scheduled=1):
    rows, positions = len(scores), len(scores[0])
    logits = torch.zeros(rows, positions, 4) if logits is None else logits
    return StepContext(
        plan=StepPlan(index=0, num_scheduled=scheduled, reveal_probability=0.1),
        scores_BP=torch.tensor(scores, dtype=torch.float64),
        tokens_BP=torch.zeros(rows, positions, dtype=torch.int64),
        logits_BPV=logits,
    )


def test_threshold_reveals_the_sure_and_at_least_the_scheduled():
    rule = AcceptanceOptions(type="threshold", value=0.9).make()
    chosen = rule(context([[0.95, 0.2, 0.9, -math.inf], [0.1, 0.3, 0.2, 0.25]]))
    assert chosen.int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 0]]
    assert rule(context([[0.1, 0.3, 0.2, 0.25]], scheduled=2)).int().tolist() == [[0, 1, 0, 1]]


def test_factor_reveals_the_largest_n_of_its_inequality():
    generator = torch.Generator().manual_seed(0)
    sizes = set()
    for factor in (0.3, 1.0, 2.0):
        rule = AcceptanceOptions(type="factor", value=factor).make()
        scores = torch.rand(20, 6, generator=generator, dtype=torch.float64) ** 0.2
        for row, chosen in zip(scores.tolist(), rule(context(scores.tolist())), strict=True):
            ranked = sorted(row, reverse=True)
            holds = [n for n in range(1, 7) if (n + 1) * (1 - ranked[n - 1]) < factor]
            assert chosen.sum() == max([1, *holds])
            assert {v for v, c in zip(row, chosen, strict=True) if c} == set(
                ranked[: int(chosen.sum())]
            )
            sizes.add(int(chosen.sum()))
    assert len(sizes) > 3, "the cases must differ"


def test_entropy_bound_adds_entropies_but_for_the_largest():
    generator = torch.Generator().manual_seed(1)
    sizes = set()
    for bound in (0.0, 0.4, 1.5):
        rule = AcceptanceOptions(type="entropy_bound", value=bound).make()
        logits = torch.randn(20, 6, 4, generator=generator) * 3
        scores = logits.double().softmax(-1).amax(-1)
        for row, chosen in enumerate(rule(context(scores.tolist(), logits))):
            order = sorted(range(6), key=lambda p: -scores[row, p])
            entropies = []
            for p in order:
                weights = [math.exp(v) for v in logits[row, p].tolist()]
                chances = [w / sum(weights) for w in weights]
                entropies.append(-sum(c * math.log(c) for c in chances if c > 0))
            fits = [n for n in range(1, 7) if sum(entropies[:n]) - max(entropies[:n]) <= bound]
            assert {p for p in range(6) if chosen[p]} == set(order[: max(fits)])
            sizes.add(max(fits))
    assert len(sizes) > 2, "the cases must differ"


def test_token_entropy_bound_adds_minus_p_log_p_up_to_the_bound():
    rule = AcceptanceOptions(type="token_entropy_bound").make()
    # -p log p is 0.095, 0.347, 0.010 and, of a token that hardly fits, 0.046.
    chosen = rule(context([[0.9, 0.5, 0.99, 0.01], [0.9, 0.5, 0.99, -math.inf]]))
    assert chosen.int().tolist() == [[1, 0, 1, 1], [1, 0, 1, 0]]
    # At least the scheduled, by the same ranking; suppressed tokens, of probability 0, come last.
    assert rule(context([[0.5, 0.4, 0.45, 0.0]])).int().tolist() == [[1, 0, 0, 0]]
    assert rule(context([[0.5, 0.4, 0.45, 0.0]], scheduled=2)).int().tolist() == [[1, 0, 1, 0]]
    assert rule(context([[0.0, 0.0, 0.4]], scheduled=2)).int().tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(("name", "value"), RULES)
def test_rules_need_fewer_passes_and_a_batch_equals_one(name, value):
    config = SamplerConfig(
        generation_length=12, block_length=6, acceptance={"type": name, "value": value}
    )
    together = sample(ToyDenoiser(), PROMPTS, config, TOKENS, device="cpu")
    alone = [sample(ToyDenoiser(), [p], config, TOKENS, device="cpu") for p in PROMPTS]
    assert together.token_ids == [output.token_ids[0] for output in alone]
    assert 2 <= min(o.num_forward_passes for o in alone) < 12
    assert together.passes_per_prompt == [o.num_forward_passes for o in alone]


@pytest.mark.parametrize(("name", "value"), [("threshold", 1.0), ("factor", 1e-9)])
def test_rules_that_are_never_sure_equal_one_token_a_step(name, value):
    config = SamplerConfig(
        generation_length=12, block_length=6, acceptance={"type": name, "value": value}
    )
    plain = SamplerConfig(generation_length=12, block_length=6)
    outputs = [sample(ToyDenoiser(), PROMPTS, c, TOKENS, device="cpu") for c in (config, plain)]
    assert outputs[0].token_ids == outputs[1].token_ids


def test_a_rule_from_outside_is_one_entry(monkeypatch):
    def even_positions(step, value):
        return (torch.arange(step.scores_BP.shape[1]) % value == 0).expand_as(step.scores_BP)

    rule = AcceptanceRule(
        choose=even_positions,
        default=2.0,
        fits=lambda value: value >= 1,
        possible="at least 1",
        needs_probabilities=False,
    )
    monkeypatch.setitem(ACCEPTANCE_RULES, "even_positions", rule)
    config = SamplerConfig(generation_length=8, block_length=8, acceptance="even_positions")
    output = sample(ToyDenoiser(), PROMPTS, config, TOKENS, device="cpu")
    assert 3 <= output.num_forward_passes <= 4, "half of what is left at each step, and the surest"
    with pytest.raises(ValueError, match="must be at least 1 for type='even_positions'"):
        SamplerConfig(acceptance={"type": "even_positions", "value": 0.5})


def test_wrong_options_name_the_rule():
    with pytest.raises(ValueError, match="Did you mean 'threshold'"):
        SamplerConfig(acceptance="treshold")
    with pytest.raises(ValueError, match="probability above 0 and up to 1.*default is 0.9"):
        SamplerConfig(acceptance={"type": "threshold", "value": 1.5})
    with pytest.raises(ValueError, match="has no effect with type='scheduled'"):
        SamplerConfig(acceptance={"value": 0.5})
    with pytest.raises(ValueError, match="which remasking='entropy' does not give"):
        SamplerConfig(acceptance="factor", remasking="entropy")
    with pytest.raises(ValueError, match="chooses them at random"):
        SamplerConfig(acceptance="entropy_bound", remasking="random")
    with pytest.raises(ValueError, match="remasking_temperature=0.5 blurs; leave one of them out"):
        SamplerConfig(acceptance="threshold", remasking_temperature=0.5)
    assert {name for name, _ in RULES} == set(ACCEPTANCE_RULES)
    assert SamplerConfig(acceptance="threshold").acceptance.value == 0.9


def answer(token_ids):
    ends = [i for i, t in enumerate(token_ids) if t in TOKENS.end_token_ids]
    return token_ids[: ends[0]] if ends else token_ids


@pytest.mark.parametrize("block_length", [4, 16])
def test_early_stop_gives_the_same_answers_in_fewer_passes(block_length):
    options = {"generation_length": 16, "block_length": block_length}
    whole = SamplerConfig(**options)
    early = SamplerConfig(**options, early_stop=True)
    saved = 0
    for prompt, seed in itertools.product(PROMPTS, range(4)):
        model, prompts = ToyDenoiser(seed=seed, eos_bias=3.0), [prompt]
        expected = sample(model, prompts, whole, TOKENS, device="cpu")
        found = sample(model, prompts, early, TOKENS, device="cpu")
        ids, full = found.token_ids[0], expected.token_ids[0]
        assert answer(ids) == answer(full)
        assert len(ids) == 16
        assert TOKENS.mask_token_id not in ids[len(answer(ids)) :]
        saved += expected.num_forward_passes - found.num_forward_passes
    assert saved > 0, "nothing stopped early, so nothing was shown"


@pytest.mark.parametrize("is_split", [False, True])
def test_processes_that_split_passes_stop_after_the_same_one(monkeypatch, is_split):
    """However late each one's GPU is; a process that goes on alone would wait for the others."""

    class Event:
        late = 0

        def record(self):
            self.left = self.late

        def query(self):
            self.left -= 1
            return self.left < 0

        def synchronize(self):
            self.left = 0

    class Flag(early_stop.LaggedFlag):
        def __init__(self, device, **options):
            super().__init__(device, **options)
            self._cuda = True

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(early_stop, "LaggedFlag", Flag)
    config = SamplerConfig(generation_length=16, block_length=16, early_stop=True)
    model, passes = ToyDenoiser(eos_bias=3.0), set()
    model.is_split = is_split
    for Event.late in range(4):
        passes.add(sample(model, PROMPTS[:1], config, TOKENS, device="cpu").num_forward_passes)
    assert min(passes) < 16, "nothing stopped early, so nothing was shown"
    assert (len(passes) == 1) == is_split


def test_early_stop_in_a_batch_equals_one_at_a_time():
    config = SamplerConfig(generation_length=16, block_length=4, early_stop=True)
    model = ToyDenoiser(eos_bias=2.0)
    calls = {"is_complete": lambda ids: 5 in ids}
    alone = [sample(model, [p], config, TOKENS, device="cpu", **calls) for p in PROMPTS]
    together = sample(model, PROMPTS, config, TOKENS, device="cpu", **calls)
    assert together.token_ids == [output.token_ids[0] for output in alone]
    assert len({output.num_forward_passes for output in alone}) > 1
    assert together.passes_per_prompt == [output.num_forward_passes for output in alone]
    assert together.num_forward_passes == max(together.passes_per_prompt)


@pytest.mark.parametrize("block_length", [4, 16])
@pytest.mark.parametrize("cfg_scale", [0.0, 1.0])
def test_a_samples_passes_do_not_depend_on_its_batch(block_length, cfg_scale):
    """Early stop, guidance and rules that reveal several tokens at once, in any batch."""
    for acceptance, seed in itertools.product(
        ("scheduled", "threshold", "entropy_bound"), range(3)
    ):
        config = SamplerConfig(
            generation_length=16, block_length=block_length, early_stop=True, cfg_scale=cfg_scale,
            acceptance=acceptance,
        )  # fmt: skip
        model = ToyDenoiser(seed=seed, eos_bias=2.0)
        alone = [sample(model, [p], config, TOKENS, device="cpu") for p in PROMPTS]
        passes = [output.num_forward_passes for output in alone]
        assert [output.passes_per_prompt for output in alone] == [[number] for number in passes]
        for size in (2, 3, len(PROMPTS)):
            batches = [PROMPTS[first : first + size] for first in range(0, len(PROMPTS), size)]
            found = [sample(model, batch, config, TOKENS, device="cpu") for batch in batches]
            assert sum((output.passes_per_prompt for output in found), []) == passes


def test_the_callers_test_stops_after_the_block_and_is_asked_only_then():
    asked = []

    def is_complete(ids):
        asked.append(len(ids))
        return len(ids) >= 8

    config = SamplerConfig(generation_length=16, block_length=4, early_stop=True)
    model = ToyDenoiser(eos_bias=-20.0)
    output = sample(model, [[1]], config, TOKENS, device="cpu", is_complete=is_complete)
    assert asked == [4, 8]
    assert output.num_forward_passes == 8
    whole = SamplerConfig(generation_length=16, block_length=4)
    expected = sample(model, [[1]], whole, TOKENS, device="cpu").token_ids[0]
    assert output.token_ids[0] == expected[:8] + [TOKENS.eos_token_id] * 8
    assert max(output.token_ids[0]) < VOCABULARY


def test_a_settled_cut_stays_whatever_follows():
    stops = ("b", "abc", "cc")
    texts = ["".join(t) for n in range(6) for t in itertools.product("abc", repeat=n)]
    for text in texts:
        more = [m for m in texts if m.startswith(text)]
        cuts = {cut_at_stop_strings(m, stops) for m in more}
        if cut_is_settled(text, stops):
            assert len(cuts) == 1
    assert cut_is_settled("ab", ("b",))
    assert not cut_is_settled("ab", ("b", "abc"))
    assert not cut_is_settled("a", ("b",))
