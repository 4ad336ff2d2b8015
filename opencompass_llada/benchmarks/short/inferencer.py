"""Chooses the likeliest option of multiple-choice questions, given the rest, for OpenCompass.

PPLInferencer compares the likelihoods of whole texts, which are estimates for a masked diffusion
model. Here, as in LLaDA's own evaluation, what the options' texts begin with alike is a clean
condition and only the rest is scored, with the same masks for rests of one length.

Cost in forward passes of one row: where every option is one token, one pass for all of them. Else
one an option for an autoregressive model; for a masked diffusion model and an option of L tokens
2^L - 1 if those are no more than num_draws, without error, else num_draws (a block-causal model
counts an option's tokens block by block, and passes are those of the block with the most); L by
confidence, `likelihood=dict(estimator='confidence')`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from opencompass_llada.benchmarks.opencompass_bases import ScoringInferencer
from opencompass_llada.benchmarks.perplexity.inferencer import find_scorer
from opencompass_llada.likelihood import Estimate, TextScorer, parse_scoring
from opencompass_llada.options import check_fields, reject_unknown
from opencompass_llada.prompting.encode import count_bytes
from opencompass_llada.prompting.truncate import LengthLimit


@dataclass(frozen=True, kw_only=True)
class OptionScoring:
    """How options are compared."""

    labels: Sequence[Any] | None = None
    """The options' labels; None takes the template's."""
    per: str = "option"
    """What an option's nats are divided by before they are compared: ``option`` (by nothing,
    lm-eval's acc), ``token``, or ``byte`` of what is scored of it."""
    likelihood: Mapping[str, Any] | None = None
    """``estimator``, ``num_draws``, ``seed`` and ``batch_size`` instead of the model's."""
    batch_size: int | None = 1
    """Samples between two writes of the file that a run resumes from."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        reject_unknown("per", [self.per], ("option", "token", "byte"))
        parse_scoring(self.likelihood)


class OptionScoringInferencer(ScoringInferencer):
    """Takes PPLInferencer's place: same templates, labels, prediction files and evaluators.

    Keywords are the fields of `OptionScoring`, and ``max_seq_len``: in-context examples are left
    out until a sample has no more tokens.
    """

    options_class = OptionScoring

    def __init__(self, model: Any, max_seq_len: int | None = None, **options: Any) -> None:
        """Take this package's wrapper, or OpenCompass's HuggingFaceBaseModel."""
        super().__init__(model, max_seq_len, **options)
        self.samples_a_write = self.batch_size
        self.scorer = make_scorer(model, self.options.likelihood, max_seq_len)

    def prepare(
        self, retriever: Any, templates: Mapping[str, Any]
    ) -> tuple[int, Callable[[int], dict[str, Any]]]:
        """Score the options of all samples."""
        labels = list(self.options.labels or retriever.get_labels(**templates))
        if len(labels) < 2:
            raise ValueError(f"labels={labels} must be at least two, for there is a choice to make")
        examples = retriever.retrieve()
        column = retriever.dataset_reader.output_column

        def make_record(index: int) -> dict[str, Any]:
            found = self._score_sample(retriever, templates, labels, index, list(examples[index]))
            return found | ({"gold": retriever.test_ds[index][column]} if column else {})

        return len(examples), make_record

    def _score_sample(
        self,
        retriever: Any,
        templates: Mapping[str, Any],
        labels: Sequence[Any],
        index: int,
        examples: list[int],
    ) -> dict[str, Any]:
        """Return a sample's record in the prediction file, in PPLInferencer's form."""
        count = self.scorer.count_tokens
        while True:
            ice = retriever.generate_ice(examples, ice_template=templates["ice_template"])
            prompts = [
                retriever.generate_label_prompt(index, ice, label, **templates) for label in labels
            ]
            texts = self.model.parse_template(prompts, mode="ppl")
            limit = self.max_seq_len
            if not examples or limit is None or max(map(count, texts)) <= limit:
                break
            examples = examples[:-1]
        estimates = self.scorer.score_options(texts)
        record: dict[str, Any] = {
            "in-context examples": self.model.parse_template(ice, mode="ppl"),
            "origin_prompt": texts[0],
        }
        values, per = [], self.options.per
        for label, text, estimate in zip(labels, texts, estimates, strict=True):
            num_bytes = self.scorer.count_scored_bytes(text, estimate)
            divisor = {"option": 1, "token": estimate.num_tokens, "byte": num_bytes}[per]
            values.append(estimate.nll / divisor)
            record[f"label: {label}"] = _describe(text, values[-1], estimate, num_bytes)
        return {**record, "prediction": labels[values.index(min(values))]}


def make_scorer(
    model: Any, likelihood: Mapping[str, Any] | None, max_seq_len: int | None
) -> TextScorer:
    """Return what scores texts with this package's wrapper, or a model that `find_scorer` knows.

    Without ``likelihood`` the model's own options hold; the limit is for models that are not ours.
    """
    own = getattr(model, "scorer", None)
    if isinstance(own, TextScorer):
        return own.with_options(likelihood)
    options = parse_scoring(likelihood)
    return TextScorer(
        tokens=find_scorer(model),
        encode=lambda text: list(model.tokenizer(text)["input_ids"]),
        count_bytes=partial(count_bytes, model.tokenizer),
        start_token_id=model.tokenizer.bos_token_id,
        limit=LengthLimit(max_seq_len=max_seq_len, policy="error", prompt_only=False),
        options=options,
    )


def _describe(text: str, value: float, estimate: Estimate, num_bytes: int) -> dict[str, Any]:
    """Return an option's record: PPLInferencer's names, and what an estimate is made of."""
    return {
        "testing input": text,
        "prompt": text,
        "PPL": value,
        "BPB": estimate.nll / num_bytes,  # nats a byte, as OpenCompass's own figure of that name
        "nll": estimate.nll,
        "nll_standard_error": estimate.standard_error * estimate.num_tokens,
        "num_tokens": estimate.num_tokens,
        "num_forward_passes": estimate.num_forward_passes,
    }
