"""Prepares prompts with answers (samples) for packing: which fit a row, and their end tokens.

LLaDA pads the answers of a mini-batch to one length with end tokens, which are trained like the
answer (arXiv 2502.09992, Appendix B.1): so a model learns to end an answer that is shorter than the
tokens it is given. Packed rows pad each sample by a rule of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from opencompass_llada.finetune.recipe import AnswerPadding


def padded_lengths(
    lengths: np.ndarray, padding: AnswerPadding, row_length: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the samples' lengths with their padding, int64 [samples].

    ``lengths`` count prompt, answer and its end token, at most ``row_length``; padding makes no
    sample longer than a row. Lengths of 3, 6 and 4 become 5, 8, 6 with ``tokens=2``, 4, 8, 4 with
    ``multiple_of=4``, 5, 6, 5 with ``to_length=5`` and 6, 6, 6 with ``batch_of=3``.
    """
    if padding.tokens is not None:
        padded = lengths + padding.tokens
    elif padding.multiple_of is not None:
        padded = -(-lengths // padding.multiple_of) * padding.multiple_of
    elif padding.to_length is not None:
        padded = np.maximum(lengths, padding.to_length)
    else:
        assert padding.batch_of is not None
        order, padded = rng.permutation(len(lengths)), lengths.copy()
        for start in range(0, len(order), padding.batch_of):
            group = order[start : start + padding.batch_of]
            padded[group] = lengths[group].max()
    return np.minimum(padded, row_length)


def choose_fitting(lengths: np.ndarray, row_length: int, *, skips: bool) -> np.ndarray:
    """Return which samples fit a row, bool [samples]; none may be cut.

    A longer one is a ValueError, unless it ``skips`` such.
    """
    fits = lengths <= row_length
    if not fits.all() and not skips:
        longest, number = int(lengths.max()), int((~fits).sum())
        raise ValueError(
            f"text source: {number} of {len(lengths)} samples (prompt, answer and end token) are "
            f"longer than sequence_length={row_length}, the longest has {longest} tokens, and "
            f"samples are never cut. Use rows of {longest} tokens, shorten the samples, or leave "
            "them out with long_samples: skip."
        )
    return fits


def number_samples(weights_L: np.ndarray, spans: Sequence[int]) -> np.ndarray:
    """Return the number of each position's sample in its row, int64 [L], from 0.

    A span is a sample; those without any weight, as padding has, count with the one before them.
    """
    starts = np.cumsum([0, *spans[:-1]])
    has_weight = np.add.reduceat(weights_L, starts) > 0
    return np.repeat(np.maximum(np.cumsum(has_weight) - 1, 0), spans)
