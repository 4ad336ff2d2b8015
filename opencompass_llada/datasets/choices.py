"""The OpenCompass inferencer that picks one of several endings by its likelihood given the text.

For OpenCompass's own PPL-mode data sets, whose templates give one full prompt a choice. Its stock
inferencer scores the whole prompt; a masked diffusion model's likelihood is a Monte-Carlo bound,
so that the shared text would drown the difference in noise. Here only what differs is scored, given
what is shared, as LLaDA's own evaluation does (github.com/ML-GSAI/LLaDA, eval_llada.py).
Autoregressive models are scored exactly by the same rule.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass.openicl.icl_inferencer.icl_base_inferencer import (
    BaseInferencer,
    GenInferencerOutputHandler,
)

from opencompass_llada.datasets.perplexity.inferencer import find_scorer, parse_likelihood_options
from opencompass_llada.options import reject_unknown, unknown_name_message

NORMALIZATIONS = ("none", "characters")
#: What OpenCompass's task passes to every inferencer and this one has no use for.
_HOST_KEYWORDS = ("max_out_len", "min_out_len", "max_seq_len", "dump_res_length",
                  "dump_only_message_path")  # fmt: skip


class ChoicePPLInferencer(BaseInferencer):
    """Picks the likeliest choice; ``infer_cfg=dict(inferencer=dict(type=ChoicePPLInferencer))``."""

    def __init__(
        self,
        model: Any,
        normalize: str = "none",
        continuation_column: str | None = None,
        likelihood: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        **host_keywords: Any,
    ) -> None:
        """Check the options.

        Args:
            model: OpenCompass's model.
            normalize: ``characters`` divides an ending's log-likelihood by its length, as
                lm-evaluation-harness's acc_norm does; ``none`` for its acc.
            continuation_column: Column of the text that all choices end in and that is scored,
                where they differ before it (Winogrande); None where they differ at the end.
            likelihood: Fields of `LikelihoodOptions`, without batch_size.
            batch_size: Rows in one call of the model; OpenCompass gives the model's own.
            host_keywords: What OpenCompass passes to every inferencer; no effect.

        Raises:
            ValueError: For an unknown option or a wrong value.
        """
        reject_unknown("ChoicePPLInferencer option", host_keywords, _HOST_KEYWORDS)
        if normalize not in NORMALIZATIONS:
            raise ValueError(unknown_name_message("normalize", str(normalize), NORMALIZATIONS))
        super().__init__(model=model, batch_size=batch_size)
        self.normalize = normalize
        self.continuation_column = continuation_column
        self.options = parse_likelihood_options(likelihood or {}, batch_size or 1)

    def inference(
        self,
        retriever: Any,
        ice_template: Any = None,
        prompt_template: Any = None,
        output_json_filepath: str | None = None,
        output_json_filename: str | None = None,
    ) -> list[Any]:
        """Choose for every sample and write the prediction file.

        Args:
            retriever: Holds the data set and picks the examples.
            ice_template: The examples' template.
            prompt_template: The choices' template.
            output_json_filepath: Folder of the predictions.
            output_json_filename: Their file.

        Returns:
            The labels chosen.
        """
        folder = Path(output_json_filepath or self.output_json_filepath)
        name = str(output_json_filename or self.output_json_filename)
        unfinished = f"tmp_{Path(name).with_suffix('.jsonl')}"
        folder.mkdir(parents=True, exist_ok=True)
        handler = GenInferencerOutputHandler()
        done = len(handler.restore_from_jsonl(str(folder), unfinished))
        labels = retriever.get_labels(ice_template=ice_template, prompt_template=prompt_template)
        golds = retriever.dataset_reader.dataset["test"][retriever.dataset_reader.output_column]
        examples = retriever.retrieve()
        for index in range(done, len(examples)):
            shown = retriever.generate_ice(examples[index], ice_template=ice_template)
            prompts = [
                self._parse(
                    retriever.generate_label_prompt(
                        index,
                        shown,
                        label,
                        ice_template=ice_template,
                        prompt_template=prompt_template,
                    )
                )
                for label in labels
            ]
            scores = self._score(prompts, retriever.test_ds[index])
            handler.save_results(prompts[0], labels[scores.index(max(scores))], index)
            handler.results_dict[str(index)] |= {
                "gold": golds[index],
                "log_likelihoods": dict(zip(map(str, labels), scores, strict=True)),
            }
            handler.write_to_jsonl(str(folder), unfinished)
        handler.write_to_json(str(folder), name)
        (folder / unfinished).unlink(missing_ok=True)
        return [result["prediction"] for result in handler.results_dict.values()]

    def _parse(self, template: Any) -> str:
        return str(self.model.parse_template(template, mode="ppl"))

    def _score(self, prompts: Sequence[str], sample: Mapping[str, Any]) -> list[float]:
        """Return the log-likelihood of each choice, by its length if asked for; nats."""
        if self.continuation_column is None:
            pairs = split_endings(prompts)
        else:
            pairs = [split_off(prompt, str(sample[self.continuation_column])) for prompt in prompts]
        scorer = find_scorer(self.model)
        scores = []
        for context, ending in pairs:
            prefix, target = encode_pair(self.model, context, ending)
            value = -scorer.score(prefix, target, self.options).nll
            length = len(ending.strip()) if self.normalize == "characters" else 1
            scores.append(value / max(length, 1))
        return scores


def split_endings(prompts: Sequence[str]) -> list[tuple[str, str]]:
    """Split prompts into what they share and their own endings, between two words.

    ``["Sky is blue", "Sky is black"]`` gives ``("Sky is", " blue")`` and ``("Sky is", " black")``:
    the cut goes back to the last white space, which belongs to the ending.

    Args:
        prompts: One a choice, at least two that differ.

    Raises:
        ValueError: If two prompts are the same: nothing could tell their choices apart.
    """
    if len(set(prompts)) < len(prompts) or len(prompts) < 2:
        raise ValueError(
            f"{len(prompts)} choices with {len(set(prompts))} different prompts: each choice needs "
            "its own; see the prompt_template of the data set"
        )
    shared = os.path.commonprefix(list(prompts))
    while shared and not shared[-1].isspace():
        shared = shared[:-1]
    context = shared.rstrip()
    return [(context, prompt[len(context) :]) for prompt in prompts]


def split_off(prompt: str, continuation: str) -> tuple[str, str]:
    """Split a prompt before the text that it ends in, white space before it included.

    Raises:
        ValueError: If the prompt does not end in it, or it is empty.
    """
    if not continuation.strip() or not prompt.endswith(continuation):
        raise ValueError(
            f"The prompt ends in {prompt[-40:]!r}, not in the continuation {continuation!r}; "
            "the template must end in it"
        )
    context = prompt[: len(prompt) - len(continuation)].rstrip()
    return context, prompt[len(context) :]


def encode_pair(model: Any, context: str, ending: str) -> tuple[list[int], list[int]]:
    """Return the ids of a context and of what its ending adds to them.

    The whole is encoded at once and cut after as many ids as the context has alone.

    Args:
        model: OpenCompass's model.
        context: May be empty.
        ending: With the white space before it.

    Raises:
        ValueError: If the ending adds no token.
    """
    whole = model.encode(context + ending).tolist()
    prefix_length = len(model.encode(context)) if context else 0
    if prefix_length >= len(whole):
        raise ValueError(f"The ending {ending!r} adds no token to its context; give it some text")
    return whole[:prefix_length], whole[prefix_length:]
