"""How the split attention kernel's work is cut: the number of splits for few and many queries."""

from __future__ import annotations

import pytest

from opencompass_llada.inference.tilings import (
    Tiling,
    choose_splits,
    choose_tiling,
    fit_tiling,
)

WAVES = Tiling(keys=64, stages=2, queries=128, warps=8, programs=None)


@pytest.mark.parametrize(("busy", "splits"), [(128, 1), (96, 4), (64, 2), (32, 4), (1000, 1)])
def test_whole_waves_fill_132_processors(busy, splits):
    assert choose_splits(WAVES, busy, 132) == splits


@pytest.mark.parametrize(("busy", "splits"), [(32, 16), (28, 32), (512, 1), (600, 1), (1, 64)])
def test_few_queries_aim_for_a_number_of_programs(busy, splits):
    assert choose_splits(Tiling(keys=64, stages=4), busy, 132) == splits


@pytest.mark.parametrize("quantised", [False, True])
def test_up_to_64_queries_keep_their_tiling(quantised):
    few = choose_tiling(1, quantised=quantised)
    assert choose_tiling(64, quantised=quantised) == few
    assert choose_tiling(65, quantised=quantised) != few


@pytest.mark.parametrize(
    ("kilobytes", "head_dim", "num_queries", "key_bytes", "expected"),
    [
        (227, 128, 32, 2, (64, 4)),  # H100: as it is
        (227, 128, 128, 2, (128, 3)),
        (227, 128, 128, 1, (64, 3)),
        (227, 256, 128, 2, (64, 2)),
        (163, 128, 128, 2, (128, 2)),  # A100
        (99, 128, 32, 2, (64, 2)),  # L40S
        (99, 128, 128, 2, (64, 2)),
        (99, 128, 32, 1, (64, 3)),
    ],
)
def test_tilings_fit_a_cards_shared_memory(kilobytes, head_dim, num_queries, key_bytes, expected):
    fitting = fit_tiling(
        choose_tiling(num_queries, quantised=key_bytes == 1),
        num_queries=num_queries,
        head_dim=head_dim,
        key_bytes=key_bytes,
        shared_memory=kilobytes * 1024,
    )
    assert (fitting.keys, fitting.stages) == expected
