"""The first layer's attention among tokens that stay is computed once, and changes no logits."""

import pytest
import torch
from test_fast_exact import MODELS, prompts_of

from opencompass_llada.inference import FastNetwork, PassServer, first_layer
from opencompass_llada.inference.pass_options import PrefillOptions

LENGTHS = (40, 23, 31)
#: The block's positions in each row: at its end, in its middle, and all of it.
BLOCKS = [[34, 40], [10, 16], [0, 6]]


@pytest.fixture
def calls(monkeypatch):
    """Numbers of queries and keys of each call for a part of the first layer."""
    made, attend = [], first_layer.attend_part

    def count(q, k, v, *, is_causal):
        made.append((len(q), len(k)))
        return attend(q, k, v, is_causal=is_causal)

    monkeypatch.setattr(first_layer, "attend_part", count)
    return made


def open_session(model, *, passes=3, **options):
    server = PassServer(FastNetwork(model), **options)
    return server.open(LENGTHS, block_length=6, cache_dtype="bfloat16", passes=passes)


def block_positions():
    return torch.stack([torch.arange(first, end) for first, end in BLOCKS])


def check(session, model, ids, positions):
    expected = model.logits_at(ids, positions, torch.tensor(LENGTHS))
    assert expected.std() > 0.5, "flat logits would make the comparison vacuous"
    got = session.full_pass(ids, positions, keep=False)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_tokens_that_stay_are_attended_to_once(name, calls):
    model, positions = MODELS[name], block_positions()
    ids, session = torch.tensor(prompts_of((40, 40, 40), seed=3)), open_session(MODELS[name])
    check(session, model, ids, positions)
    among = [(length - 6, length - 6) for length in LENGTHS[:2]]
    assert set(among) < set(calls)
    calls.clear()
    for step in range(1, 4):  # reveals tokens, of which fewer and fewer are asked
        ids = ids.scatter(1, positions[:, :step], (ids.gather(1, positions[:, :step]) + 7) % 250)
        check(session, model, ids, positions[:, step:])
    assert not set(among) & set(calls)


def test_what_has_changed_elsewhere_is_attended_to_anew(calls):
    model, positions = MODELS["llada"], block_positions()
    ids, session = torch.tensor(prompts_of((40, 40, 40), seed=4)), open_session(MODELS["llada"])
    check(session, model, ids, positions)
    other = ids.clone()
    other[0, 3] += 1
    calls.clear()
    for given in (other, ids, other, ids):  # as guidance does
        check(session, model, given, positions)
    assert calls.count((34, 34)) == 1
    later = torch.stack([torch.arange(first, first + 3) for first in (20, 0, 9)])
    check(session, model, ids, later)  # another block
    assert (37, 37) in calls


def test_ids_that_are_written_over_are_attended_to_anew():
    model, session = MODELS["llada"], open_session(MODELS["llada"])
    ids = torch.tensor(prompts_of((40, 40, 40), seed=6))
    at_the_end = torch.stack([torch.arange(length - 6, length) for length in LENGTHS])
    check(session, model, ids, at_the_end)
    ids[:, 3] += 1
    check(session, model, ids, at_the_end)


def test_no_kernel_is_chosen_for_whole_rows_that_none_attends_to(monkeypatch):
    server = PassServer(FastNetwork(MODELS["llada"]), prefill=PrefillOptions(type="float8"))
    chosen = []
    monkeypatch.setattr(server, "choose_attention", lambda *sizes: chosen.append(sizes))
    session = server.open(LENGTHS, block_length=6, cache_dtype=None, passes=3)
    assert not chosen
    session.full_pass(torch.tensor(prompts_of((40, 40, 40), seed=7)), block_positions(), keep=False)
    assert chosen


def test_passes_that_differ_take_it_whole(calls):
    ids, positions = torch.tensor(prompts_of((40, 40, 40), seed=5)), block_positions()
    model = MODELS["llada"]
    open_session(model).full_pass(ids, positions, keep=True)
    open_session(model, passes=1).full_pass(ids, positions, keep=False)
    sparse = PrefillOptions(type="float8", shortest=1)
    open_session(model, prefill=sparse).full_pass(ids, positions, keep=False)
    assert not calls
