"""Scores texts with OpenCompass's inferencer interface, and adds up the estimates.

A sample is a text; its "prediction" is a JSON string of estimates (see `write_estimates`), so that
prediction files, resuming and completeness work as they do for generation. Works with this
package's wrapper and with OpenCompass's wrappers of transformers' autoregressive models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from opencompass_llada.benchmarks.opencompass_bases import (
    CompleteEvaluator,
    ScoringInferencer,
    check_complete,
)
from opencompass_llada.benchmarks.perplexity.samples import WindowOptions, cut_windows
from opencompass_llada.likelihood import (
    CausalScorer,
    Estimate,
    LikelihoodOptions,
    causal_logits,
    pool,
)
from opencompass_llada.likelihood.estimate import safe_exp
from opencompass_llada.options import build, check_fields, check_value, show
from opencompass_llada.prompting.encode import count_bytes

INTERVAL_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class PerplexityOptions:
    """What is scored, and how."""

    window: Mapping[str, Any]
    """Fields of `WindowOptions`."""
    likelihood: Mapping[str, Any] | None = None
    """Fields of `LikelihoodOptions`, without batch_size."""
    batch_size: int | None = None
    """Rows in one call of the model; OpenCompass gives the model's own."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        build(WindowOptions, self.window, "window")
        parse_likelihood_options(self.likelihood or {}, self.batch_size or 1)


class PerplexityInferencer(ScoringInferencer):
    """Scores the windows of each text; ``infer_cfg=dict(inferencer=dict(type=...))``."""

    options_class = PerplexityOptions

    def prepare(
        self, retriever: Any, templates: Mapping[str, Any]
    ) -> tuple[int, Callable[[int], dict[str, Any]]]:
        """Score all texts as they are; templates have no effect."""
        texts = retriever.dataset_reader.dataset["test"]
        scorer, tokenizer = find_scorer(self.model), self.model.tokenizer
        window = build(WindowOptions, self.options.window, "window")
        options = parse_likelihood_options(self.options.likelihood or {}, self.batch_size)

        def make_record(index: int) -> dict[str, Any]:
            estimates, num_bytes = [], []
            for prefix, target in cut_windows(read_ids(self.model, texts[index]["text"]), window):
                estimates.append(scorer.score(prefix, target, options))
                border = len(target) - estimates[-1].num_tokens
                before = [*prefix, *target[:border]]
                num_bytes.append(count_bytes(tokenizer, target[border:], before))
            prediction = write_estimates(estimates, num_bytes)
            return {"origin_prompt": texts[index]["name"], "prediction": prediction}

        return len(texts), make_record


def parse_likelihood_options(options: Mapping[str, Any], batch_size: int) -> LikelihoodOptions:
    """Read the inferencer's ``likelihood`` option."""
    check_value("likelihood", options, Mapping[str, Any])
    if "batch_size" in options:
        raise ValueError(
            f"likelihood['batch_size']={show(options['batch_size'])} has no effect here; set the "
            "model's own batch_size"
        )
    if options.get("estimator") == "confidence":
        raise ValueError(
            "likelihood['estimator']='confidence' scores options and bounds no likelihood; use "
            "'bound', or OptionScoringInferencer for multiple choice"
        )
    return build(LikelihoodOptions, {**options, "batch_size": batch_size}, "likelihood")


def find_scorer(model: Any) -> Any:
    """Return an object with ``score(prefix, target, options) -> Estimate`` for a model.

    That is this package's wrapper, or one that holds an AutoModelForCausalLM as ``model``
    (OpenCompass's HuggingFaceBaseModel and its kin); others are refused.
    """
    own = getattr(getattr(model, "engine", None), "scorer", None)
    if own is not None:
        return own
    network: Any = getattr(model, "model", None)
    if hasattr(network, "forward") and hasattr(model, "tokenizer"):
        return CausalScorer(causal_logits(network.eval()), device=network.device)
    raise ValueError(
        f"{type(model).__name__} gives no access to its network's logits, which perplexity needs; "
        "use opencompass_llada.wrapper.LLaDACausalLM (with its weights: tokenizer_only=False), or "
        "OpenCompass's HuggingFaceBaseModel for an autoregressive model."
    )


def read_ids(model: Any, text: str) -> list[int]:
    """Return a text's ids without a beginning-of-sequence token: only one window would have it."""
    if hasattr(model, "engine"):
        token_ids = model.encode(text).tolist()
    else:
        token_ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    start = getattr(model.tokenizer, "bos_token_id", None)
    return token_ids[1:] if start is not None and token_ids[:1] == [start] else token_ids


def write_estimates(estimates: Sequence[Estimate], num_bytes: Sequence[int]) -> str:
    """Return estimates as JSON, each with the number of UTF-8 bytes of the text it scores."""
    pairs = zip(estimates, num_bytes, strict=True)
    return json.dumps([{**_describe(estimate), "num_bytes": size} for estimate, size in pairs])


def _describe(estimate: Estimate) -> dict[str, Any]:
    """Return the fields; JSON has no infinite degrees of freedom, for which None stands."""
    freedom = estimate.degrees_of_freedom
    return {**asdict(estimate), "degrees_of_freedom": None if math.isinf(freedom) else freedom}


def read_estimates(prediction: str) -> list[tuple[Estimate, int]]:
    """Return what `write_estimates` wrote: pairs of an estimate and its number of bytes."""
    try:
        pairs = []
        for row in json.loads(prediction):
            num_bytes = row.pop("num_bytes")
            if row["degrees_of_freedom"] is None:
                row["degrees_of_freedom"] = math.inf
            pairs.append((Estimate(**row), num_bytes))
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"The prediction {prediction[:60]!r} is no list of estimates ({error}); it was not "
            "written by PerplexityInferencer, or is torn: run inference again."
        ) from error
    if not pairs:
        raise ValueError("The prediction holds no estimates; run inference again.")
    return pairs


class PerplexityEvaluator(CompleteEvaluator):
    """Reports perplexity, its interval, and what a curve is put together from."""

    def score(
        self, predictions: Sequence[str], references: Any = None, test_set: Any = None
    ) -> dict[str, Any]:
        """Score one cell by the predictions of `PerplexityInferencer`; there are no references.

        Returns:
            perplexity, perplexity_low and perplexity_high (95 %, of the masks drawn, not of the
            choice of the text), bits_per_byte (comparable between tokenizers), nll_per_token and
            its standard_error, the fields of `Estimate`, num_bytes, num_samples (windows), and
            nll_by_window, each window's own nll_per_token, by which models are paired.
        """
        check_complete(predictions, predictions if test_set is None else test_set)
        pairs = [pair for prediction in predictions for pair in read_estimates(prediction)]
        total = pool([estimate for estimate, _ in pairs])
        num_bytes = sum(size for _, size in pairs)
        low, high = total.interval(INTERVAL_LEVEL)
        return {
            "perplexity": total.perplexity,
            "perplexity_low": safe_exp(low),
            "perplexity_high": safe_exp(high),
            "bits_per_byte": total.nll / math.log(2) / num_bytes,
            "nll_per_token": total.nll_per_token,
            "standard_error": total.standard_error,
            **_describe(total),
            "num_bytes": num_bytes,
            "num_samples": len(pairs),
            "nll_by_window": [estimate.nll_per_token for estimate, _ in pairs],
        }
