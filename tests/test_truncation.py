"""Truncation policies: what is kept, in which order, and what a prompt over the limit says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencompass_llada.prompting.truncate import TRUNCATION_POLICIES, PromptTooLongError, truncate

PROMPT = [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("policy", "limit", "kept"),
    [
        ("middle", 4, [1, 2, 5, 6]),
        ("middle", 5, [1, 2, 4, 5, 6]),
        ("middle", 1, [6]),
        ("left", 4, [3, 4, 5, 6]),
        ("right", 4, [1, 2, 3, 4]),
        ("error", 6, PROMPT),
    ],
)
def test_what_each_policy_keeps(policy, limit, kept):
    assert truncate(PROMPT, limit=limit, policy=policy) == kept


def test_error_policy_names_length_limit_and_remedy():
    with pytest.raises(PromptTooLongError, match=r"6 tokens.*limit is 5.*truncation='middle'"):
        truncate(PROMPT, limit=5, policy="error")


def test_unknown_policy_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'middle'"):
        truncate(PROMPT, limit=5, policy="midle")


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="limit=0"):
        truncate(PROMPT, limit=0, policy="left")


@given(
    st.lists(st.integers(0, 9), max_size=30),
    st.integers(1, 40),
    st.sampled_from([policy for policy in TRUNCATION_POLICIES if policy != "error"]),
)
def test_result_fits_and_prompts_within_the_limit_are_untouched(prompt, limit, policy):
    before = list(prompt)
    kept = truncate(prompt, limit=limit, policy=policy)
    assert len(kept) == min(len(prompt), limit)
    assert prompt == before
    if len(prompt) <= limit:
        assert kept == prompt
    remaining = iter(prompt)
    assert all(token in remaining for token in kept), "order must be kept"
