"""Adds up the estimates of a cell's texts to one perplexity with its error.

Reads the predictions of `PerplexityInferencer`; computes nothing about tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from opencompass_llada.benchmarks.opencompass_bases import CompleteEvaluator, check_complete
from opencompass_llada.benchmarks.perplexity.inferencer import read_estimates
from opencompass_llada.likelihood import pool
from opencompass_llada.likelihood.estimate import safe_exp

INTERVAL_LEVEL = 0.95


class PerplexityEvaluator(CompleteEvaluator):
    """Reports perplexity, its interval, and what a curve is put together from."""

    def score(
        self, predictions: Sequence[str], references: Any = None, test_set: Any = None
    ) -> dict[str, Any]:
        """Score one cell by the predictions of `PerplexityInferencer`; there are no references.

        Returns:
            perplexity, perplexity_low and perplexity_high (95 %, of the masks drawn, not of the
            choice of the text), bits_per_byte (comparable between tokenizers), nll_per_token and
            its standard_error, the fields of `Estimate`, num_bytes, and num_samples (windows).

        Raises:
            ValueError: If predictions are missing or torn.
        """
        check_complete(predictions, predictions if test_set is None else test_set)
        pairs = [pair for prediction in predictions for pair in read_estimates(prediction)]
        total = pool([estimate for estimate, _ in pairs])
        num_bytes = sum(size for _, size in pairs)
        low, high = total.interval(INTERVAL_LEVEL)
        freedom = total.degrees_of_freedom
        return {
            "perplexity": total.perplexity,
            "perplexity_low": safe_exp(low),
            "perplexity_high": safe_exp(high),
            "bits_per_byte": total.nll / math.log(2) / num_bytes,
            "nll_per_token": total.nll_per_token,
            "standard_error": total.standard_error,
            "estimator": total.estimator,
            "nll": total.nll,
            "variance": total.variance,
            "degrees_of_freedom": None if math.isinf(freedom) else freedom,
            "num_tokens": total.num_tokens,
            "num_bytes": num_bytes,
            "num_draws": total.num_draws,
            "num_forward_passes": total.num_forward_passes,
            "num_samples": len(pairs),
        }
