"""Cutting finished generations at end tokens and stop strings."""

import pytest

from opencompass_llada.prompting.truncate import (
    cut_at_stop_strings,
    cut_at_token_ids,
    merge_stop_strings,
)


def test_ids_are_cut_before_the_first_end_token_of_any_kind():
    assert cut_at_token_ids([1, 2, 9, 3, 8], {8, 9}) == [1, 2]
    assert cut_at_token_ids([9, 1], {9}) == []
    assert cut_at_token_ids([1, 2], {9}) == [1, 2]


@pytest.mark.parametrize("order", [["\n\n", "Q:"], ["Q:", "\n\n"]])
def test_text_is_cut_at_the_stop_string_that_comes_first_in_the_text(order):
    assert cut_at_stop_strings("Paris. Q: next\n\nmore", order) == "Paris. "
    assert cut_at_stop_strings("Paris.\n\nQ: next", order) == "Paris."


def test_text_without_stop_string_is_untouched():
    assert cut_at_stop_strings("Paris", ["Q:"]) == "Paris"
    assert cut_at_stop_strings("Paris", []) == "Paris"


def test_merging_keeps_order_drops_repeats_and_takes_one_bare_string_as_one():
    assert merge_stop_strings(["a", "b"], None, ["b", "c"], "end") == ("a", "b", "c", "end")


@pytest.mark.parametrize("bad", ["", 3])
def test_a_stop_string_that_would_cut_everything_is_refused(bad):
    with pytest.raises(ValueError, match="non-empty string"):
        merge_stop_strings([bad])
