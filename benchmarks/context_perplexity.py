"""Perplexity of the same target tokens over context length, of one checkpoint, no OpenCompass.

    python benchmarks/context_perplexity.py asset:tiny-llada --lengths 512 2048 8192 --record p.json
    python benchmarks/context_perplexity.py FOLDER --text '$DATA/*.jsonl' --text-field text
    python benchmarks/context_perplexity.py asset:tiny-llada --whole --scaling ntk 2048 --paired

Each place in the text is scored with contexts of every length: the last ``--targets`` tokens of a
window, the rest before them clean; or all of it (``--whole``). Of a masked diffusion model it is
the likelihood bound, masked alike at every length and under every scaling, of an autoregressive one
exact. ``--paired`` sets the scaling beside none, text by text, so that neither the choice of texts
nor the masks make the difference. Trains nothing; `configs/eval_llada_ppl.py` does the same inside
OpenCompass, of whole texts.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from needle_grid import add_scaling_option, load_engine, read_scaling
from recording import ROOT, describe_run, exit_on_error, write_record

from opencompass_llada.engines import Engine
from opencompass_llada.finetune.evaluation import context_windows
from opencompass_llada.finetune.packing import TokenizedText
from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.tokenizing import default_folder, tokenize_source
from opencompass_llada.finetune.tokens import TrainingTokenizer
from opencompass_llada.likelihood import LikelihoodOptions, pool

GENERATED = "generated"
HELD_OUT_SEED = 2  # of generated text that no recipe of this repository trains on


def read_text(
    tokens: TrainingTokenizer, source: TextSource, folder: Path | None = None
) -> TokenizedText:
    """Return a text's tokens, from disk where they are.

    Args:
        tokens: The tokenizer.
        source: The text.
        folder: Where tokens are kept; None for the user's cache folder.
    """
    return tokenize_source(source, tokens, folder or default_folder())


def measure_contexts(
    engine: Engine,
    tokens: np.ndarray,
    lengths: Sequence[int],
    *,
    targets: int | None,
    texts: int,
    draws: int,
    batch_tokens: int,
) -> dict[str, dict[str, Any]]:
    """Return perplexity and its errors by context length.

    Args:
        engine: The model.
        tokens: Of the text, [tokens].
        lengths: Tokens of context and target together.
        targets: Tokens scored at each place; None for all of a window.
        texts: Places.
        draws: Masks drawn at each place, of a masked diffusion model.
        batch_tokens: Most tokens of one call of the model.

    Returns:
        By length: ``perplexity``; ``standard_error`` over the places, which holds that of the
        masks; ``masks_standard_error``, of the masks alone. Both errors are of the perplexity, to
        first order. ``nats_by_text``: nats a token at each place.

    Raises:
        ValueError: If there is one place alone, a length is shorter than the target, or the text
            is shorter than the longest or than targets apart from each other need.
    """
    if texts < 2:
        raise ValueError(f"texts={texts} must be at least 2: one place gives no error.")
    if targets is not None and min(lengths) < targets:
        raise ValueError(f"lengths must be at least targets={targets}, got {min(lengths)}.")
    needed = max(lengths) + (texts - 1) * (targets or max(lengths))
    if max(lengths) <= len(tokens) < needed:
        raise ValueError(
            f"the text has {len(tokens)} tokens, and {texts} targets that share none, which the "
            f"error supposes, need {needed}; give a longer text or fewer texts."
        )
    figures = {}
    for length, windows in context_windows(tokens, lengths, texts).items():
        rows = min(draws, max(1, batch_tokens // length))
        options = LikelihoodOptions(num_draws=draws, batch_size=rows)
        estimates = []
        for window in windows:
            border = length - (targets or length)
            estimates.append(engine.scorer.score(window[:border], window[border:], options))
        pooled, each = pool(estimates), [estimate.nll_per_token for estimate in estimates]
        spread = statistics.stdev(each) / math.sqrt(texts)
        figures[str(length)] = {
            "perplexity": pooled.perplexity,
            "standard_error": pooled.perplexity * spread,
            "masks_standard_error": pooled.perplexity * pooled.standard_error,
            "nats_by_text": each,
        }
    return figures


def compare_contexts(
    figures: dict[str, dict[str, Any]], others: dict[str, dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Return by length how many nats a token the first cost more, and its error over the texts."""
    differences = {}
    for length, found in figures.items():
        pairs = zip(found["nats_by_text"], others[length]["nats_by_text"], strict=True)
        apart = [first - second for first, second in pairs]
        error = statistics.stdev(apart) / math.sqrt(len(apart))
        differences[length] = {"nats": statistics.fmean(apart), "standard_error": error}
    return differences


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", help="a folder or asset:NAME")
    parser.add_argument("--text", default=GENERATED, help=f"a glob of files, or {GENERATED!r}")
    parser.add_argument("--text-field", default="text")
    parser.add_argument("--documents", type=int, default=60, help="of generated text")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192, 16384, 32768])
    parser.add_argument("--targets", type=int, default=64, help="tokens scored at each place")
    parser.add_argument("--whole", action="store_true", help="score all tokens of a window")
    parser.add_argument("--paired", action="store_true", help="and without the scaling")
    parser.add_argument("--texts", type=int, default=32, help="places in the text")
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--batch-tokens", type=int, default=131072)
    add_scaling_option(parser)
    parser.add_argument("--record", type=Path, default=ROOT / "context_perplexity.json")
    given = parser.parse_args(arguments)
    scaling = read_scaling(given)
    if given.paired and scaling is None:
        raise ValueError("--paired compares a scaling with none; give --scaling METHOD TARGET.")
    engine, tokenizer = load_engine(given.checkpoint, 16, 4, scaling)  # the sampler is not used
    made = given.text == GENERATED
    source = TextSource(
        paths=() if made else (given.text,),
        generated_seed=HELD_OUT_SEED if made else None,
        num_documents=given.documents if made else 0,
        text_field=given.text_field,
    )
    training = TrainingTokenizer(
        tokenizer=tokenizer, end_token_id=tokenizer.eos_token_id, mask_token_id=None
    )
    start = time.perf_counter()
    record: dict[str, Any] = describe_run() | {
        name: getattr(given, name) for name in ("checkpoint", "text", "texts", "draws", "documents")
    }
    record |= {"targets": None if given.whole else given.targets, "scaling": scaling}
    measure = functools.partial(
        measure_contexts,
        tokens=read_text(training, source).tokens,
        lengths=given.lengths,
        targets=record["targets"],
        texts=given.texts,
        draws=given.draws,
        batch_tokens=given.batch_tokens,
    )
    record["perplexity"] = measure(engine)
    if given.paired:
        plain, _ = load_engine(given.checkpoint, 16, 4, None)
        record["unscaled"] = measure(plain)
        record["difference"] = compare_contexts(record["perplexity"], record["unscaled"])
    for name in ("perplexity", "unscaled", "difference"):
        for length, figures in record.get(name, {}).items():
            facts = [f"{k} {v:.3f}" for k, v in figures.items() if not isinstance(v, list)]
            print(f"{name}, {length:>7} tokens: {', '.join(facts)}")
    record["seconds"] = round(time.perf_counter() - start, 1)
    write_record(given.record, record)
    print(f"wrote {given.record}")


if __name__ == "__main__":
    exit_on_error(main)
