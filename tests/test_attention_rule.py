"""The rule that picks an attention kernel, with the rates of the recorded H100."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from opencompass_llada.inference import attention_rule
from opencompass_llada.inference.attention_rule import (
    AttentionRates,
    attention_operations,
    make_rule,
)
from opencompass_llada.networks.attention import attend_with

LAYERS, HEADS, SIZE = 32, 32, 128


@pytest.fixture(scope="module")
def rates(repository_root):
    record = repository_root / "benchmarks" / "records" / "inference_h100.json"
    return AttentionRates(**json.loads(record.read_text())["attention rule"])


@pytest.mark.parametrize(
    ("length", "passes", "kernel"),
    [(4128, 1, "flash"), (4128, 32, "cudnn"), (16896, 1, "cudnn"), (32800, 1, "cudnn")],
)
def test_a_plan_must_pay_for_itself(rates, length, passes, kernel):
    operations = attention_operations(length, length, HEADS, SIZE)
    assert rates.choose(operations, passes * LAYERS, odd=False) == kernel
    saved = passes * LAYERS * operations * (1 / rates.flash - 1 / rates.cudnn)
    assert (saved > rates.plan_seconds) == (kernel == "cudnn")


def test_without_cudnn_it_is_flash():
    rates = AttentionRates(
        flash=1e14, cudnn=None, cudnn_odd=None, plan_seconds=0.0, plan_seconds_odd=0.0
    )
    assert rates.choose(1e18, 1000, odd=True) == "flash"
    assert "does not run" in rates.describe()


def test_elsewhere_the_choice_is_pytorchs_unless_a_backend_is_asked_for():
    cpu = torch.device("cpu")
    assert make_rule("auto", cpu, torch.float32, 2, 2, 16)(10, 10, 1) is None
    assert make_rule("sdpa_math", cpu, torch.float32, 2, 2, 16)(10, 10, 1) == "math"
    with pytest.raises(ValueError, match="needs a CUDA device"):
        make_rule("sdpa_cudnn", cpu, torch.float32, 2, 2, 16)


def test_the_log_says_once_which_kernel_was_chosen(rates, monkeypatch, caplog):
    monkeypatch.setattr(attention_rule, "measure_rates", lambda *about: rates)
    caplog.set_level(logging.INFO)

    def run(rule, *lengths):
        """Choose as exact sampling does: a step has one masked position less than the last."""
        chosen = set()
        for length in lengths:
            for step in range(32):
                for num_queries in (length, 32 - step):
                    chosen.add(rule(num_queries, length, 32 * LAYERS))
        return chosen

    def lines():
        return [own for own in caplog.messages if own.startswith("Attention kernel")]

    about = ("auto", torch.device("cuda"), torch.bfloat16, HEADS, HEADS, SIZE)
    rule = make_rule(*about)
    assert run(rule, 16384, 16392, 16400, 16384) == {"cudnn", "flash"}
    calls = 32 * LAYERS
    assert lines() == [
        f"Attention kernel cudnn for whole rows; first: 16384 queries, 16384 keys, {calls} calls "
        "of that shape",
        "Attention kernel flash for some queries of a row; first: 32 queries, 16384 keys, "
        f"{calls} calls of that shape",
    ]
    caplog.clear()
    assert run(rule, 256, 264, 16384) == {"cudnn", "flash"}
    assert len(lines()) == 1, "another choice for whole rows, and no other news"
    assert "flash for whole rows; first: 256 queries" in lines()[0]
    caplog.clear()
    run(make_rule(*about), 16384)
    assert len(lines()) == 2, "another network's log is its own"


@pytest.mark.parametrize("backend", [None, "math", "flash"])
def test_kernels_give_the_written_out_attention(backend):
    torch.manual_seed(0)
    q, k, v = torch.randn(4, 5, 16), torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    wide_k, wide_v = k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)
    expected = torch.softmax(q @ wide_k.transpose(1, 2) / 4.0, -1) @ wide_v
    found = attend_with(backend, q[None], k[None], v[None])[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
