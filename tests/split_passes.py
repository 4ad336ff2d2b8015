"""Runs full and small passes and generates, alone or split over processes, for test_sequence_split.

Run by torchrun, or in the test's own process.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from tiny import EOS_ID, MASK_ID, tiny_model
from tiny_dream import tiny_dream

from opencompass_llada.inference import FastNetwork, PassServer, PrefillOptions, quantise_network
from opencompass_llada.processes import connect, stop_processes
from opencompass_llada.sampling import CacheOptions, SamplerConfig, SpecialTokens, sample

TOKENS = SpecialTokens(mask_token_id=MASK_ID, eos_token_id=EOS_ID)
FLOAT8 = PrefillOptions(type="float8", shortest=1)
SPARSE = PrefillOptions(type="sparse", keep=0.4, dense_tail=32, near=0, shortest=1)
#: Grouped heads and tied embeddings, as iLLaDA has them.
GROUPED = {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 48}
#: Lengths of the prompts, an odd number of tokens together with the answers.
SHORT, LONG = (11, 26, 1), (1001,)
#: Case -> network, lengths of its prompts, cache, prefill, precision.
CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any], PrefillOptions | None, bool]] = {
    "nothing cached": ("llada", SHORT, {}, None, False),
    "prompt": ("grouped", SHORT, {"type": "prompt"}, None, False),
    "prompt, two refreshes": ("llada", SHORT, {"type": "prompt", "refresh": 3}, None, False),
    "dual": ("grouped", SHORT, {"type": "dual"}, None, False),
    "shifted": ("dream", (12, 25), {"type": "dual"}, None, False),
    "float8 cached": ("grouped", SHORT, {"type": "prompt", "dtype": "float8"}, None, False),
    "float8 attention": ("grouped", LONG, {"type": "prompt"}, FLOAT8, False),
    "sparse": ("grouped", LONG, {"type": "prompt", "dtype": "float8"}, SPARSE, False),
    "float8 weights": ("grouped", SHORT, {"type": "prompt"}, None, True),
    "float8 weights, long": ("grouped", LONG, {"type": "prompt"}, None, True),
}


def make_network(name: str) -> Any:
    """Return a tiny network by name."""
    if name == "dream":
        return tiny_dream(seed=5, num_attention_heads=4, num_key_value_heads=2)
    return tiny_model(seed=4, **(GROUPED if name == "grouped" else {}))


def run_case(name: str, group: dist.ProcessGroup | None) -> dict[str, Any]:
    """Return the logits of a full pass and of two small ones, and what is generated."""
    network_name, lengths, cache, prefill, quantised = CASES[name]
    network = make_network(network_name)
    if quantised:
        quantise_network(network)
    server = PassServer(FastNetwork(network), prefill=prefill, group=group)
    generator = torch.Generator().manual_seed(7)
    prompts = [torch.randint(6, 250, (n,), generator=generator).tolist() for n in lengths]
    config = SamplerConfig(
        generation_length=12,
        block_length=4,
        temperature=0.3,
        seed=3,
        cache=CacheOptions(**cache),
    )
    answers = sample(server, prompts, config, TOKENS, device="cpu").token_ids
    found = {"answers": answers, "full": run_passes(server, lengths, cache)}
    assert server.is_split == (group is not None), "early stop goes by it"
    if server.split is not None:
        own = server.split.num_heads, server.split.num_groups
        assert [2 * n for n in own] == [server.network.num_heads, server.network.num_groups]
    if cache:
        kept = server._cache
        assert kept is not None
        found["kept"] = kept.layers[0].read(0, sum(lengths), torch.float32)[0]
    return found


def run_passes(server: PassServer, lengths: tuple[int, ...], cache: dict[str, Any]) -> Any:
    """Return logits of a full pass, and of two partial ones on what it cached."""
    rows = tuple(length + 6 for length in lengths)
    generator = torch.Generator().manual_seed(1)
    ids_BL = torch.randint(6, 250, (len(rows), max(rows)), generator=generator)
    dtype = CacheOptions(**cache).dtype
    session = server.open(rows, block_length=6, cache_dtype=dtype, passes=1)
    first_B1 = torch.tensor(lengths)[:, None]
    logits = [session.full_pass(ids_BL, first_B1 + torch.arange(6), keep=dtype is not None)]
    if dtype is None:
        return logits
    wanted_BP, starts = first_B1 + torch.arange(1, 3), [length - 1 for length in lengths]
    for num_wanted in (None, 4):
        ids_BL = ids_BL.roll(1, dims=0) if num_wanted else ids_BL + 1
        logits.append(session.partial_pass(ids_BL, starts, 7, wanted_BP, num_wanted))
    return logits


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    group = connect(torch.device("cpu"))
    found = {name: run_case(name, group) for name in names or CASES}
    torch.save(found, f"{folder}/rank{dist.get_rank()}.pt")
    stop_processes()
