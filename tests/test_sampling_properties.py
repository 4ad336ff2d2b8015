"""What always holds for the sampler: bookkeeping, batches, seeds, the seams for later modes."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_denoiser import TOKENS, VOCABULARY, ToyDenoiser

from opencompass_llada.sampling import (
    SamplerConfig,
    SpecialTokens,
    StepListener,
    derive_seed,
    sample,
)
from opencompass_llada.sampling.block_cache import BlockForward, CallSession
from opencompass_llada.sampling.loop import Denoiser, lay_out_rows
from opencompass_llada.sampling.prediction import Predictor, gumbel_argmax, make_generators
from opencompass_llada.sampling.row_layout import RowLayout
from opencompass_llada.sampling.schedule import StepPlan
from opencompass_llada.sampling.unmasking import StepContext, accept_scheduled

MASK = TOKENS.mask_token_id
# The second prompt holds the mask id: it must be treated as any other token.
PROMPTS = [[3, 1, 4, 1, 5], [2, MASK, 8, MASK, 1, 8, 2, 8], [], [9]]
RANDOM = {"temperature": 0.8, "remasking": "random"}


@pytest.mark.parametrize("options", [{}, RANDOM, {"cfg_scale": 1.0}], ids=str)
def test_reveals_sum_to_the_masks_and_nothing_else_is_written(options: dict[str, Any]) -> None:
    model = ToyDenoiser(mask_bias=1.5)
    config = SamplerConfig(generation_length=10, block_length=4, num_steps=9, **options)
    output = sample(model, PROMPTS, config, TOKENS, device="cpu")
    assert [len(ids) for ids in output.token_ids] == [10] * len(PROMPTS)
    # With guidance every second call is the one without prompt.
    calls = model.calls[:: 2 if config.cfg_scale else 1]
    assert len(calls) == 9
    assert [positions.shape[1] for _, positions, _ in calls] == [4, 2, 1] * 3
    assert output.num_forward_passes == len(model.calls)
    for row, prompt in enumerate(PROMPTS):
        end = len(prompt) + 12
        for ids, positions, lengths in calls:
            assert ids[row, : len(prompt)].tolist() == prompt
            assert (ids[row, end:] == MASK).all()
            assert lengths is not None
            assert lengths[row] == end
            assert positions[row].tolist() == sorted(set(positions[row].tolist()))
        for step, (before, after) in enumerate(itertools.pairwise(calls)):
            block = range(len(prompt) + step // 3 * 4, len(prompt) + (step // 3 + 1) * 4)
            changed = (before[0][row] != after[0][row]).nonzero()[:, 0].tolist()
            assert set(before[1][row].tolist()) <= set(block)
            assert set(changed) <= set(before[1][row].tolist())
            if step % 3 < 2:
                still = set(after[1][row].tolist())
                revealed = set(before[1][row].tolist()) - still
                assert len(revealed) == (2, 1)[step % 3]
                assert set(changed) <= revealed


def test_guidance_hides_the_whole_prompt_and_nothing_else() -> None:
    model = ToyDenoiser()
    config = SamplerConfig(generation_length=4, block_length=4, cfg_scale=2.0)
    output = sample(model, PROMPTS, config, TOKENS, device="cpu")
    assert output.num_forward_passes == 8 == len(model.calls)
    for conditional, blind in zip(model.calls[::2], model.calls[1::2], strict=True):
        for row, prompt in enumerate(PROMPTS):
            assert (blind[0][row, : len(prompt)] == MASK).all()
            assert torch.equal(blind[0][row, len(prompt) :], conditional[0][row, len(prompt) :])
        assert torch.equal(blind[1], conditional[1])
        assert blind[2] is conditional[2]


def test_unpadded_batches_pass_no_lengths() -> None:
    model = ToyDenoiser()
    config = SamplerConfig(generation_length=4, block_length=4)
    sample(model, [[1, 2], [3, 4]], config, TOKENS, device="cpu")
    assert all(lengths is None for _, _, lengths in model.calls)


@pytest.mark.parametrize("options", [{}, RANDOM, {"cfg_scale": 1.0, **RANDOM}], ids=str)
def test_a_ragged_batch_equals_one_at_a_time_in_any_order(options: dict[str, Any]) -> None:
    model = ToyDenoiser()
    config = SamplerConfig(generation_length=11, block_length=4, num_steps=6, **options)
    alone = [sample(model, [p], config, TOKENS, device="cpu").token_ids[0] for p in PROMPTS]
    together = sample(model, PROMPTS, config, TOKENS, device="cpu").token_ids
    backwards = sample(model, PROMPTS[::-1], config, TOKENS, device="cpu").token_ids
    assert together == alone
    assert backwards == alone[::-1]


def test_seeds_decide() -> None:
    model = ToyDenoiser()
    config = SamplerConfig(generation_length=16, block_length=16, temperature=1.0)

    def ids(seed: int, **arguments: Any) -> list[list[int]]:
        seeded = SamplerConfig(generation_length=16, block_length=16, temperature=1.0, seed=seed)
        return sample(model, PROMPTS, seeded, TOKENS, device="cpu", **arguments).token_ids

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)
    assert ids(1, seeds=[5, 6, 7, 8]) == ids(2, seeds=[5, 6, 7, 8])
    assert ids(1, seeds=[5, 6, 7, 8])[0] != ids(1, seeds=[9, 6, 7, 8])[0]
    torch.manual_seed(1)
    first = sample(model, PROMPTS, config, TOKENS, device="cpu").token_ids
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert sample(model, PROMPTS, config, TOKENS, device="cpu").token_ids == first
    assert torch.equal(torch.get_rng_state(), state)


def test_derived_seeds_depend_on_seed_and_prompt_only() -> None:
    # From `printf %s 0:1,2,3 | b2sum -l 64`, halved: a change would change every sampled result.
    assert derive_seed(0, [1, 2, 3]) == 4156728389756018309
    seeds = {derive_seed(seed, prompt) for seed in (0, 1) for prompt in ([], [1, 23], [12, 3])}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_temperature_zero_ignores_the_seed() -> None:
    outputs = [
        sample(
            ToyDenoiser(),
            PROMPTS,
            SamplerConfig(generation_length=8, block_length=8, seed=seed),
            TOKENS,
            device="cpu",
        )
        for seed in (0, 1)
    ]
    assert outputs[0] == outputs[1]


def test_two_calls_leave_config_and_prompts_equal() -> None:
    config = SamplerConfig(generation_length=6, block_length=4, num_steps=4, **RANDOM)
    prompts = copy.deepcopy(PROMPTS)
    before = copy.deepcopy(config)
    first = sample(ToyDenoiser(), prompts, config, TOKENS, device="cpu")
    assert sample(ToyDenoiser(), prompts, config, TOKENS, device="cpu") == first
    assert config == before
    assert prompts == PROMPTS


def test_no_prompts_give_nothing_and_ask_nothing() -> None:
    model = ToyDenoiser()
    output = sample(model, [], SamplerConfig(), TOKENS, device="cpu")
    assert (output.token_ids, output.num_forward_passes, model.calls) == ([], 0, [])


def test_surplus_is_the_end_of_the_longer_generation() -> None:
    cut = SamplerConfig(generation_length=9, block_length=4, num_steps=6)
    whole = SamplerConfig(generation_length=12, block_length=4, num_steps=6)
    cut_ids = sample(ToyDenoiser(), PROMPTS, cut, TOKENS, device="cpu").token_ids
    whole_ids = sample(ToyDenoiser(), PROMPTS, whole, TOKENS, device="cpu").token_ids
    assert cut_ids == [ids[:9] for ids in whole_ids]


def test_rounding_is_logged_once_for_each_case(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="opencompass_llada")
    for generation_length in (5, 5, 7, 8, 5):
        config = SamplerConfig(generation_length=generation_length, block_length=8, num_steps=8)
        sample(ToyDenoiser(), [[1]], config, TOKENS, device="cpu")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "generation_length=5 is not a multiple of block_length=8" in messages[0]
    assert "last 3 are cut" in messages[0]


def test_wrong_number_of_seeds_is_an_error() -> None:
    with pytest.raises(ValueError, match="got 1 seeds for 4 prompts.*give one a prompt"):
        sample(ToyDenoiser(), PROMPTS, SamplerConfig(), TOKENS, seeds=[1], device="cpu")


def test_full_sequence_logits_are_an_error() -> None:
    def careless(ids: Tensor, positions: Tensor, lengths: Tensor | None) -> Tensor:
        return torch.zeros((*ids.shape, VOCABULARY))

    with pytest.raises(ValueError, match="asked positions only"):
        sample(careless, [[1]], SamplerConfig(generation_length=4), TOKENS, device="cpu")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{}, RANDOM], ids=["greedy", "random"])
def test_broken_logits_stop_the_generation(value: float, options: dict[str, Any]) -> None:
    model = ToyDenoiser()

    def broken(ids: Tensor, positions: Tensor, lengths: Tensor | None) -> Tensor:
        logits = model(ids, positions, lengths)
        if len(model.calls) > 2:
            logits[1, 0, 5] = value
        return logits

    config = SamplerConfig(generation_length=8, block_length=2, **options)
    with pytest.raises(FloatingPointError, match="not finite in block 1"):
        sample(broken, PROMPTS, config, TOKENS, device="cpu")
    assert len(model.calls) == 4, "stops at the end of the block"


def test_gumbel_noise_draws_from_the_softmax_and_survives_large_logits() -> None:
    logits_V = torch.tensor([1.0, 0.0, -1.0, 2.5, -math.inf], dtype=torch.float32)
    num_draws, temperature = 40_000, 0.7
    (generator,) = make_generators([4], torch.device("cpu"))
    drawn = gumbel_argmax(logits_V.expand(num_draws, -1), temperature, generator)
    counts = torch.bincount(drawn, minlength=5).double() / num_draws
    expected = (logits_V.double() / temperature).softmax(dim=-1)
    error = (expected * (1 - expected) / num_draws).sqrt()
    assert ((counts - expected).abs() <= 4 * error).all()
    # exp(800) overflows float64; both tokens would tie at infinity and the first would win.
    drawn = gumbel_argmax(torch.tensor([[800.0, 900.0]] * 50), temperature, generator)
    assert drawn.tolist() == [1] * 50


def test_equal_scores_are_revealed_from_the_left() -> None:
    scores = torch.tensor([[0.5, 0.7, 0.5, 0.7, -math.inf], [0.0, 0.0, 0.0, 0.0, 0.0]])
    plan = StepPlan(index=0, num_scheduled=3, reveal_probability=0.6)
    step = StepContext(plan=plan, scores_BP=scores, tokens_BP=scores, logits_BPV=scores)
    accepted = accept_scheduled(step)
    assert accepted.int().tolist() == [[1, 1, 0, 1, 0], [1, 1, 1, 0, 0]]


def accept_above(step: StepContext) -> Tensor:
    """A rule as a later mode would add it: all that is sure enough, at least the scheduled."""
    return accept_scheduled(step) | (step.scores_BP > 0.35)


def accept_nothing(step: StepContext) -> Tensor:
    """Breaks the contract: reveals nothing."""
    return torch.zeros_like(step.scores_BP, dtype=torch.bool)


class RecordingForward(BlockForward):
    """Remembers where blocks began, as a cache would."""

    starts: list[list[int]]

    def logits(self, ids_BL: Tensor, positions_BP: Tensor, block_index: int) -> Tensor:
        if block_index == len(self.starts):
            self.starts.append(positions_BP[:, 0].tolist())
        return super().logits(ids_BL, positions_BP, block_index)


def run_with(accept: Any, prompts: list[list[int]], config: SamplerConfig) -> Any:
    device = torch.device("cpu")
    layout = RowLayout.of(prompts, config.plan(), None, device)
    seeds = [derive_seed(config.seed, prompt) for prompt in prompts]
    session = CallSession(ToyDenoiser(), layout.row_lengths, device)
    forward = RecordingForward(session, 0, layout, config.cache, 0.0, MASK)
    forward.starts = []
    predictor = Predictor(config, TOKENS, make_generators(seeds, device), device)
    denoiser = Denoiser(
        layout=layout, forward=forward, predictor=predictor, accept=accept, progress=StepListener()
    )
    ids_BL, passes = denoiser.run(lay_out_rows(prompts, max(layout.row_lengths), MASK))
    forward.passes_per_prompt = passes.tolist()
    rows = zip(ids_BL.tolist(), layout.prompt_lengths, strict=True)
    return [row[start : start + config.generation_length] for row, start in rows], forward


@pytest.mark.parametrize("options", [{}, RANDOM], ids=["greedy", "random"])
def test_a_rule_may_reveal_more_than_scheduled_and_a_batch_still_equals_one(
    options: dict[str, Any],
) -> None:
    config = SamplerConfig(generation_length=12, block_length=6, **options)
    together, forward = run_with(accept_above, PROMPTS, config)
    alone = [run_with(accept_above, [prompt], config) for prompt in PROMPTS]
    assert together == [ids[0] for ids, _ in alone]
    passes = [single.num_forward_passes for _, single in alone]
    assert forward.passes_per_prompt == passes
    assert len(set(passes)) > 1, "rows differ in their number of steps, or the test shows nothing"
    assert max(passes) <= forward.num_forward_passes < 12
    assert forward.starts == [[5, 8, 0, 1], [11, 14, 6, 7]]


def test_a_rule_that_leaves_masks_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="must reveal at least the scheduled number"):
        run_with(accept_nothing, PROMPTS, SamplerConfig(generation_length=4, block_length=2))


def test_a_checkpoint_without_eot_suppresses_eos_alone() -> None:
    tokens = SpecialTokens(mask_token_id=MASK, eos_token_id=TOKENS.eos_token_id)
    config = SamplerConfig(generation_length=16, block_length=16, suppress_eos_eot_confidence=True)
    model = ToyDenoiser(eos_bias=2.5)
    ids = sample(model, PROMPTS, config, tokens, device="cpu").token_ids
    assert ids != sample(model, PROMPTS, config, TOKENS, device="cpu").token_ids


@pytest.mark.gpu
def test_a_cuda_device_gives_the_same_greedy_ids_and_repeats_itself() -> None:
    class CudaToy(ToyDenoiser):
        def __call__(self, ids: Tensor, positions: Tensor, lengths: Tensor | None) -> Tensor:
            cpu_lengths = None if lengths is None else lengths.cpu()
            return super().__call__(ids.cpu(), positions.cpu(), cpu_lengths).cuda()

    greedy = SamplerConfig(generation_length=12, block_length=4, num_steps=6, cfg_scale=0.5)
    on_cpu = sample(ToyDenoiser(), PROMPTS, greedy, TOKENS, device="cpu")
    assert sample(CudaToy(), PROMPTS, greedy, TOKENS, device="cuda") == on_cpu
    drawn = SamplerConfig(generation_length=12, block_length=4, num_steps=6, **RANDOM)
    first = sample(CudaToy(), PROMPTS, drawn, TOKENS, device="cuda")
    assert sample(CudaToy(), PROMPTS, drawn, TOKENS, device="cuda") == first
    alone = sample(CudaToy(), PROMPTS[1:2], drawn, TOKENS, device="cuda")
    assert alone.token_ids[0] == first.token_ids[1]
