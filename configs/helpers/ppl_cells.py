"""Perplexity: one OpenCompass data set for each point of a curve over context length.

`abbr` is ``ppl_ESTIMATOR_TARGET_TEXT_lengthN``. It only names files: what reads results takes
length and target from the config.
"""

from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import ZeroRetriever

from opencompass_llada.benchmarks.perplexity.scoring import PerplexityEvaluator
from opencompass_llada.benchmarks.perplexity.inferencer import PerplexityInferencer
from opencompass_llada.benchmarks.perplexity.samples import PerplexityDataset

# Characters a token that a text is expected to have at most; English has 3 (a vocabulary of 2,000)
# to 5 (one of 100,000).
most_characters_a_token = 6


def ppl_cells(
    lengths,
    data="generated",
    estimator="bound",
    target="whole",
    num_draws=None,
    num_texts=2,
    windows_per_text=1,
    min_characters=None,
    text_field="text",
    hub_config=None,
    split="test",
):
    """List the data set configs of a curve.

    Args:
        lengths: Context lengths in the model's own tokens.
        data: 'generated', a .txt file, a folder of them, a .jsonl file, or 'hub:NAME'.
        estimator: 'bound' or 'longllada'; autoregressive models are scored exactly either way.
        target: For 'bound', 'whole' for the whole text up to each length, or how many last tokens
            of a text are scored at every length, given a growing prefix. 'longllada' scores all
            text but the first chunk in chunks of 64 tokens, as LongLLaDA's script does.
        num_draws: Masks drawn a target (16) or a chunk (8).
        num_texts: Texts taken.
        windows_per_text: Windows taken of each.
        min_characters: Shorter texts are passed over. By default none are, so that the texts do
            not depend on the lengths; generated ones are made as long as a cell needs.
        text_field: Field of a jsonl or hub row.
        hub_config: Configuration of a hub data set.
        split: Split of a hub data set.

    Raises:
        ValueError: For options that do not fit.
    """
    import opencompass_llada.benchmarks.perplexity.inferencer
    import opencompass_llada.benchmarks.perplexity.samples

    likelihood = dict(estimator=estimator, num_draws=num_draws)
    chunk_length = opencompass_llada.benchmarks.perplexity.inferencer.parse_likelihood_options(
        likelihood, 1
    ).chunk_length
    name = data.replace("hub:", "").rstrip("/").split("/")[-1].split(".")[0]
    cells, previous = [], 0
    for length in sorted(lengths):
        window = dict(length=length, windows_per_text=windows_per_text, target="whole")
        if estimator == "longllada":
            if length % chunk_length:
                raise ValueError(
                    f"length={length} must be a multiple of the {chunk_length} tokens of a chunk "
                    f"with estimator='longllada'; use {-(-length // chunk_length) * chunk_length}"
                )
            # The first chunk has no text before it, and LongLLaDA's script leaves it out.
            window.update(target="segment", previous_length=previous or chunk_length)
        elif target != "whole":
            window.update(target="last", target_tokens=target)
        options = opencompass_llada.benchmarks.perplexity.samples.parse_window_options(window)
        label = window["target"] + (str(target) if window["target"] == "last" else "")
        cell = dict(
            abbr=f"ppl_{estimator}_{label}_{name}_length{length}",
            type=PerplexityDataset,
            benchmark="perplexity",
            task=estimator,
            length=length,
            target=window["target"],
            path=data,
            num_texts=num_texts,
            min_characters=min_characters
            or (most_characters_a_token * options.needed_tokens if data == "generated" else 1),
            extended_at="start" if window["target"] == "last" else "end",
            text_field=text_field,
            hub_config=hub_config,
            split=split,
            reader_cfg=dict(input_columns=["text"], output_column="name"),
            infer_cfg=dict(
                # OpenCompass asks for a template; texts are scored as they are.
                prompt_template=dict(type=PromptTemplate, template="{text}"),
                retriever=dict(type=ZeroRetriever),
                inferencer=dict(type=PerplexityInferencer, window=window, likelihood=likelihood),
            ),
            eval_cfg=dict(evaluator=dict(type=PerplexityEvaluator)),
        )
        if window["target"] == "segment":
            cell["previous_length"] = previous
        previous = length
        cells.append(cell)
    return cells


# For tiny-llada, from half to eight times its trained length of 512 tokens.
tiny_lengths = (256, 512, 1024, 2048, 4096)
