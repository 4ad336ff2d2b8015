"""Weights are read once for networks that differ in their RoPE scaling, whose answers are equal."""

import os

import pytest
import torch
from tiny import write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint

from opencompass_llada import shared_weights
from opencompass_llada.networks import load_causal, load_checkpoint
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.shared_weights import load_shared, sharing_weights, weights_of_its_own
from opencompass_llada.wrapper import LLaDACausalLM

NTK = LLaDACausalLM.check_arguments("x/y", rope_scaling={"type": "ntk", "theta_multiplier": 4.0})
SCALINGS = (RopeScaling(), NTK.rope_scaling)
IDS = torch.arange(3, 40)[None]


def load_native(path, scaling):
    return load_checkpoint(path, rope_scaling=scaling, dtype=torch.float32)


def load_llama(path, scaling):
    return load_causal(path, rope_scaling=scaling, dtype=torch.float32)[0]


@pytest.fixture(params=["native", "transformers"])
def case(request, tmp_path):
    if request.param == "native":
        return load_native, write_tiny_checkpoint(tmp_path / "tiny")
    return load_llama, write_llama_checkpoint(tmp_path / "tiny")


def places(network):
    return {name: own.data_ptr() for name, own in network.named_parameters()}


def logits(network):
    with torch.no_grad():
        return network(IDS).logits


def test_scalings_share_tensors_and_nothing_else(case):
    load, path = case
    alone = [logits(load(path, scaling)) for scaling in SCALINGS]
    assert not torch.equal(*alone)
    with sharing_weights():
        networks = [load(path, scaling) for scaling in SCALINGS]
        again = load(path, SCALINGS[0])
    assert places(networks[0]) == places(networks[1]) == places(again)
    for network, expected in zip([*networks, again], [*alone, alone[0]], strict=True):
        assert torch.equal(logits(network), expected)
    assert places(load(path, SCALINGS[0])) != places(again), "outside nothing is shared"


def test_weights_that_are_to_be_changed_are_read_again(case):
    load, path = case
    with sharing_weights():
        shared = load(path, SCALINGS[0])
        with weights_of_its_own():
            own = load(path, SCALINGS[0])
        assert places(load(path, SCALINGS[0])) == places(shared)
    assert not set(places(own).values()) & set(places(shared).values())


def test_packed_weights_are_those_of_all_networks(tmp_path):
    """Packing must not leave what it was made of behind: a large model would be there twice."""
    from opencompass_llada.inference import FastNetwork

    path = write_tiny_checkpoint(tmp_path / "tiny")
    with sharing_weights():
        first = load_native(path, SCALINGS[0])
        FastNetwork(first, pack_weights=True)
        second = load_native(path, SCALINGS[1])
    assert places(first) == places(second)
    packed = places(second)
    FastNetwork(second, pack_weights=True)
    assert places(second) == packed, "packed once"


def test_what_does_not_fit_is_let_go_of_before_more_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_weights, "MOST_BYTES", 25)
    files = {name: tmp_path / name for name in "abc"}
    for file in files.values():
        file.write_bytes(b"0123456789")
    reads = []

    def load(name, form=None):
        return load_shared([files[name]], form, lambda: reads.append(name) or name)

    with sharing_weights():
        assert [load(name) for name in "abaab"] == list("abaab")
        assert reads == ["a", "b"]
        load("c")  # a was used longest ago
        load("b")
        assert reads == ["a", "b", "c"]
        load("a")
        load("b", "another dtype")
        assert reads == ["a", "b", "c", "a", "b"]
        stamp = files["a"].stat().st_mtime_ns
        os.utime(files["a"], ns=(stamp, stamp + 10**9))
        load("a")
        assert reads[-1] == "a", "the file has changed"


def test_weights_that_are_not_shared_do_not_lie_beside_large_ones(tmp_path, monkeypatch):
    file = tmp_path / "large"
    file.write_bytes(b"0123456789")
    reads = []
    for most, times in ((10, 1), (9, 2)):
        monkeypatch.setattr(shared_weights, "MOST_BYTES", most)
        reads.clear()
        with sharing_weights():
            load_shared([file], None, lambda: reads.append(1))
            with weights_of_its_own():
                pass
            load_shared([file], None, lambda: reads.append(1))
        assert len(reads) == times
