"""RoPE scaling: check values of the papers, transformers' own tables, closed forms, and errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch
from tiny import tiny_config
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from opencompass_llada.networks import LLaDAForMaskedDiffusion
from opencompass_llada.rope.frequencies import (
    ResolvedRope,
    critical_dimension,
    inverse_frequencies,
)
from opencompass_llada.rope.methods import (
    SCALING_TYPES,
    RopeScaling,
    parse_rope_scaling,
    resolve_rope,
)
from opencompass_llada.rope.rotation import apply_rotary, rotation_table

LLADA = {"rope_theta": 500000.0, "head_dim": 128, "trained_length": 4096}
LLAMA3 = {**LLADA, "trained_length": 8192}
DREAM = {"rope_theta": 1000000.0, "head_dim": 128, "trained_length": 2048}
K = 1024
TURN = Fraction("6.28318530717958647692528676655900576839433879875021")


def resolve(options, **network):
    """Parse and resolve in one go."""
    return resolve_rope(parse_rope_scaling(options), **network)


# Printed figures: LongLLaDA section 4 (rounded up there to 4, 14, 31, 55; 4, 13; 5) and the
# formulas of both papers worked out by hand.
@pytest.mark.parametrize(
    ("method", "target", "network", "expected"),
    [
        ("ntk", 8 * K, LLADA, 3.40),
        ("ntk", 16 * K, LLADA, 13.6),
        ("ntk", 24 * K, LLADA, 30.6),
        ("ntk", 32 * K, LLADA, 54.4),
        ("ntk", 128 * K, LLADA, 870.3),
        ("diffusion_ntk", 8 * K, LLADA, 3.53),
        ("diffusion_ntk", 16 * K, LLADA, 12.5),
        ("diffusion_ntk", 32 * K, LLADA, 44.5),
        ("diffusion_ntk", 64 * K, LLADA, 158.2),
        ("diffusion_ntk", 128 * K, LLADA, 561.9),
        ("ntk", 16 * K, LLAMA3, 3.53),
        ("ntk", 32 * K, LLAMA3, 12.5),
        ("ntk", 4 * K, DREAM, 4.68),
    ],
)
def test_theta_multiplier_matches_the_papers(method, target, network, expected):
    rope = resolve({"type": method, "target_length": target}, **network)
    assert rope.theta_multiplier == pytest.approx(expected, rel=5e-3)
    assert rope.rope_theta == pytest.approx(rope.theta_multiplier * network["rope_theta"])
    assert rope.longest_context == target


def test_rounded_up_multipliers_are_those_of_the_paper():
    lambdas = [
        math.ceil(resolve({"type": "ntk", "target_length": n * K}, **LLADA).theta_multiplier)
        for n in (8, 16, 24, 32)
    ]
    assert lambdas == [4, 14, 31, 55]


def test_critical_dimensions():
    assert critical_dimension(500000.0, 128, 4096) == 64
    assert critical_dimension(500000.0, 128, 8192) == 70
    assert (
        resolve({"type": "diffusion_ntk", "target_length": 8 * K}, **LLADA).critical_dimension == 70
    )


def test_critical_dimension_override_gives_the_sweep_of_ultrallada():
    options = {"type": "diffusion_ntk", "target_length": 128 * K, "critical_dimension": 73}
    assert resolve(options, **LLADA).theta_multiplier == pytest.approx(252.6, rel=1e-3)


@pytest.mark.parametrize("method", ["ntk", "diffusion_ntk"])
def test_explicit_multiplier_and_target_are_inverse(method):
    by_target = resolve({"type": method, "target_length": 16 * K}, **LLADA)
    by_lambda = resolve({"type": method, "theta_multiplier": by_target.theta_multiplier}, **LLADA)
    assert abs(by_lambda.longest_context - 16 * K) <= 1
    torch.testing.assert_close(
        by_lambda.inverse_frequencies_D, by_target.inverse_frequencies_D, rtol=0, atol=0
    )


@pytest.mark.parametrize("method", ["ntk", "diffusion_ntk"])
@pytest.mark.parametrize("factor", [2, 3, 8, 24, 32])
@pytest.mark.parametrize("network", [LLADA, DREAM, {**DREAM, "head_dim": 32}])
def test_scaling_in_two_steps_is_scaling_in_one(method, factor, network):
    # After the first step d/2 log_b(T / 2 pi) is a whole number, but for rounding.
    length = factor * network["trained_length"]
    first = resolve({"type": method, "target_length": length}, **network)
    once = resolve({"type": method, "target_length": length * 5 // 4}, **network)
    for base in (first.rope_theta, int(first.rope_theta), float(f"{first.rope_theta:.6g}")):
        between = {**network, "rope_theta": base, "trained_length": length}
        second = resolve({"type": method, "target_length": length * 5 // 4}, **between)
        assert second.critical_dimension == once.critical_dimension
        assert second.rope_theta == pytest.approx(once.rope_theta, rel=1e-9)


def closed_form(theta: float, head_dim: int) -> np.ndarray:
    """Return b^(-2i/d), in float64 and independent of the package."""
    return theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


@pytest.mark.parametrize("method", ["none", "ntk", "diffusion_ntk"])
@pytest.mark.parametrize("network", [LLADA, {**LLADA, "rope_theta": 10000.0, "head_dim": 64}])
def test_whole_table_is_the_closed_form_of_the_scaled_base(method, network):
    options = {"type": method} | ({} if method == "none" else {"target_length": 16 * K})
    rope = resolve(options, **network)
    np.testing.assert_allclose(
        rope.inverse_frequencies_D.numpy(),
        closed_form(rope.rope_theta, network["head_dim"]),
        rtol=2e-6,
    )


def test_two_settings_in_one_process_do_not_share_a_table():
    first = rotation_table(resolve(None, **LLADA), 16, "cpu")
    second = rotation_table(resolve({"type": "ntk", "theta_multiplier": 4}, **LLADA), 16, "cpu")
    assert (first[1] - second[1]).abs().max() > 0.01


LONG = [1.0 + 0.05 * i for i in range(32)]
SHORT = [1.0] * 32


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"type": "yarn", "target_length": 2048},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        ),
        (
            {"type": "yarn", "factor": 8.0, "attention_factor": 1.5, "beta_fast": 16.0},
            {
                "rope_type": "yarn",
                "factor": 8.0,
                "attention_factor": 1.5,
                "beta_fast": 16.0,
                "original_max_position_embeddings": 512,
            },
        ),
    ],
)
def test_whole_table_is_that_of_transformers_llama(options, theirs):
    """The oracle is LLaMA's rotary embedding as a user of transformers builds it.

    Its angles are float32, and off by 3e-5 at 700 tokens; its frequencies give exact ones.
    """
    rope = resolve(options, rope_theta=10000.0, head_dim=64, trained_length=512)
    config = LlamaConfig(
        hidden_size=128,
        num_attention_heads=2,
        max_position_embeddings=512,
        rope_theta=10000.0,
        rope_scaling=theirs,
    )
    positions = torch.arange(700)[None]
    theirs = LlamaRotaryEmbedding(config)
    ours = rotation_table(rope, 700, "cpu")
    for found, rounded in zip(ours, theirs(torch.zeros(1), positions), strict=True):
        torch.testing.assert_close(found, rounded[0], rtol=0, atol=5e-5)
    angles = torch.outer(positions[0].double(), theirs.inv_freq.double()).repeat(1, 2)
    for found, exact in zip(ours, (angles.cos(), angles.sin()), strict=True):
        exact = (exact * theirs.attention_scaling).float()
        torch.testing.assert_close(found, exact, rtol=0, atol=2e-5)


def test_angles_of_half_a_million_tokens_are_exact():
    """Against angles reduced to one turn in fractions."""
    rope = resolve(None, rope_theta=500000.0, head_dim=64, trained_length=8192)
    length = 512 * 1024
    cos, sin = rotation_table(rope, length, "cpu")
    frequencies = [Fraction(float(value)) for value in rope.inverse_frequencies_D]
    for position in (length - 1, length - 777):
        for channel, frequency in enumerate(frequencies):
            angle = float(frequency * position % TURN)
            assert cos[position, channel].item() == pytest.approx(math.cos(angle), abs=1e-7)
            assert sin[position, channel + 32].item() == pytest.approx(math.sin(angle), abs=1e-7)


def test_longrope_divides_each_frequency_by_its_own_factor():
    network = {"rope_theta": 10000.0, "head_dim": 64, "trained_length": 512}
    options = {
        "type": "longrope",
        "target_length": 2048,
        "long_factor": LONG,
        "short_factor": SHORT,
    }
    rope = resolve(options, **network)
    expected = closed_form(10000.0, 64) / np.array(LONG)
    np.testing.assert_allclose(rope.inverse_frequencies_D.numpy(), expected, rtol=2e-6)
    # LongRoPE's attention factor: sqrt(1 + ln(s) / ln(T_train)) (arXiv 2402.13753, section 3.3).
    assert rope.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(512)))


def test_yarn_keeps_fast_dimensions_and_stretches_slow_ones():
    rope = resolve(
        {"type": "yarn", "factor": 4.0}, rope_theta=10000.0, head_dim=64, trained_length=512
    )
    ratio = rope.inverse_frequencies_D.numpy() / closed_form(10000.0, 64)
    assert ratio[0] == pytest.approx(1.0)
    assert ratio[-1] == pytest.approx(0.25)
    assert (np.diff(ratio) <= 1e-6).all()


@pytest.mark.parametrize(
    "options",
    [
        {"type": "none"},
        {"type": "linear", "factor": 1},
        {"type": "yarn", "factor": 1},
        {"type": "ntk", "theta_multiplier": 1},
        {"type": "ntk", "target_length": 4096},
        {"type": "diffusion_ntk", "target_length": 4096},
    ],
)
def test_factor_one_is_the_identity(options):
    rope = resolve(options, **LLADA)
    plain = resolve(None, **LLADA)
    torch.testing.assert_close(
        rope.inverse_frequencies_D, plain.inverse_frequencies_D, rtol=1e-6, atol=0
    )
    assert rope.attention_factor == 1.0


def test_attention_depends_on_relative_positions_alone():
    rope = resolve(None, rope_theta=10000.0, head_dim=16, trained_length=64)
    cos, sin = rotation_table(rope, 40, "cpu")
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16)

    def score(i: int, j: int) -> float:
        rotated = apply_rotary(q, cos[i], sin[i]), apply_rotary(k, cos[j], sin[j])
        return float((rotated[0] * rotated[1]).sum())

    assert score(3, 7) == pytest.approx(score(30, 34), abs=1e-4)
    assert abs(score(3, 7) - score(3, 12)) > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "ntkk", "target_length": 8192}, ["'ntkk'", "'ntk'"]),
        ({"type": "ntk", "target_lenght": 8192}, ["target_lenght", "target_length"]),
        ({"type": "ntk"}, ["target_length", "theta_multiplier", "neither"]),
        ({"type": "ntk", "target_length": 8192, "theta_multiplier": 4}, ["exactly one"]),
        ({"type": "ntk", "theta_multiplier": 0.5}, ["0.5", "at least 1"]),
        ({"type": "ntk", "target_length": -1}, ["-1", "above 0"]),
        ({"type": "ntk", "target_length": "8k"}, ["'8k'", "number"]),
        ({"type": "linear", "factor": 0.5}, ["0.5", "at least 1"]),
        ({"type": "longrope", "target_length": 8192}, ["long_factor", "short_factor"]),
        ({"target_length": 8192}, ["None", "ntk"]),
        ("ntk", ["'ntk'", "dict"]),
    ],
)
def test_wrong_options_name_value_rule_and_remedy(options, words):
    with pytest.raises(ValueError, match=".") as error:
        parse_rope_scaling(options)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "ntk", "target_length": 2048}, ["2048", "4096", "none"]),
        (
            {"type": "ntk", "target_length": 8192, "critical_dimension": 130},
            ["130", "at most", "128"],
        ),
        (
            {
                "type": "longrope",
                "target_length": 8192,
                "long_factor": [1.0],
                "short_factor": [1.0],
            },
            ["1 entries", "64"],
        ),
    ],
)
def test_options_that_do_not_fit_the_network(options, words):
    with pytest.raises(ValueError, match=".") as error:
        resolve(options, **LLADA)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_description_names_everything_that_a_log_needs():
    text = resolve({"type": "ntk", "target_length": 16 * K}, **LLADA).describe()
    for part in ("ntk", "13.6", "6.79955e+06", "64", "4096", "16384"):
        assert part in text


def test_description_says_that_a_scaling_changes_nothing():
    # LLaDA-8B's d_crit is a ceiling: a little beyond 4,096 tokens lambda would be below 1.
    assert "CHANGES NOTHING" in resolve({"type": "ntk", "target_length": 4200}, **LLADA).describe()
    for target in (4 * K, 8 * K):
        text = resolve({"type": "ntk", "target_length": target}, **LLADA).describe()
        assert "NOTHING" not in text


def scaled_model(scaling):
    """A tiny network with a scaling and always the same weights."""
    torch.manual_seed(0)
    return LLaDAForMaskedDiffusion(tiny_config(), scaling).eval().requires_grad_(False)


def test_a_method_from_outside_is_one_class(monkeypatch):
    """Adding a scaling touches one file: its options, checks and formula are one class."""
    monkeypatch.setitem(SCALING_TYPES, "halving", None)  # so that it is gone afterwards

    @dataclass(frozen=True, kw_only=True)
    class HalvingScaling(RopeScaling):
        type: ClassVar[str] = "halving"
        times: int = 1

        def frequencies(self, rope_theta, head_dim, trained_length) -> ResolvedRope:
            plain = super().frequencies(rope_theta, head_dim, trained_length)
            halved_D = inverse_frequencies(rope_theta, head_dim) / 2**self.times
            longest = trained_length * 2**self.times
            return replace(plain, longest_context=longest, inverse_frequencies_D=halved_D)

    model = scaled_model(parse_rope_scaling({"type": "halving", "times": 2}))
    linear = scaled_model(parse_rope_scaling({"type": "linear", "factor": 4}))
    assert model.resolved_rope.describe().startswith("RoPE scaling halving")
    ids = torch.arange(40)[None]
    torch.testing.assert_close(model(ids).logits, linear(ids).logits)
    assert (scaled_model(None)(ids).logits - model(ids).logits).abs().max() > 1e-3
    with pytest.raises(ValueError, match="Did you mean 'times'"):
        parse_rope_scaling({"type": "halving", "tims": 2})
    with pytest.raises(ValueError, match="above 0"):
        parse_rope_scaling({"type": "halving", "times": 0})
    with pytest.raises(ValueError, match="Did you mean 'halving'"):
        parse_rope_scaling({"type": "halvin"})
