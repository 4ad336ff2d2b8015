"""Predicts tokens from logits and scores them, and draws the sampler's random numbers.

The arithmetic of LLaDA's and Dream's published code, which may predict the mask id, too. One
generator a row, so that a batch changes nothing; at each denoising step it gives, with temperature
> 0, one float64 uniform for each masked position of the active block and each vocabulary entry,
then, with remasking at random or by a temperature, one for each of those positions.
Shape suffixes: P positions of one row, V vocabulary, B rows, N a few token ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from opencompass_llada.sampling.config import SamplerConfig, SpecialTokens
from opencompass_llada.sampling.unmasking import STRATEGIES


def derive_seed(seed: int, prompt: Sequence[int]) -> int:
    """Derive a row's seed, in [0, 2**63), from the run's seed and the row's own prompt.

    So a resumed or differently batched run draws the same numbers. Equal prompts get equal seeds:
    for several samples of one prompt give ``sample`` its own seeds.
    """
    text = f"{seed}:{','.join(map(str, map(int, prompt)))}"
    digest = hashlib.blake2b(text.encode("ascii"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_generators(seeds: Sequence[int], device: torch.device) -> list[torch.Generator]:
    """Make one generator a seed; CPU and CUDA draw different numbers from one seed."""
    return [torch.Generator(device=device).manual_seed(int(seed)) for seed in seeds]


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw float64 uniforms in [0, 1) on the generator's device."""
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)


def gumbel_argmax(logits_PV: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw one token for each position from ``softmax(logits / temperature)``, int64 [P].

    Takes the argmax of ``logits - temperature * log(-log(u))`` in float64, because low-precision
    Gumbel noise lowers the quality of masked diffusion models (arXiv:2409.02908). The published
    code takes the argmax of ``exp(logits) / (-log(u)) ** temperature``, whose logarithm this is;
    its ``exp`` overflows above a logit of 709, which guidance can reach.
    """
    exponential_PV = _uniform(*logits_PV.shape, generator=generator).log_().neg_()
    return (logits_PV.double() - temperature * exponential_PV.log_()).argmax(dim=-1)


def perturb(scores_P: Tensor, temperature: float, count: int, generator: torch.Generator) -> Tensor:
    """Make the highest of ``count`` scores a random choice, likelier the higher a score was.

    Taking the n highest of ``score / temperature + Gumbel noise`` draws n positions without
    replacement with probabilities softmax(score / temperature), as Dream's ``alg_temp`` does by
    ``torch.multinomial`` (Gumbel top-k, arXiv:1903.06059). Filler is left as it is.
    """
    gumbel_P = _uniform(count, generator=generator).log_().neg_().log_().neg_()
    return torch.cat([scores_P[:count] / temperature + gumbel_P, scores_P[count:]])


def keep_likely(
    logits_PV: Tensor, *, temperature: float, top_p: float | None, top_k: int | None
) -> Tensor:
    """Return the logits with minus infinity at the tokens that may not be drawn.

    Of probabilities 0.5, 0.3, 0.15, 0.05 a top-p of 0.7 keeps the first two (0.5 alone falls
    short of it) and a top-k of 3 the first three, and those as likely as the third. Dream's
    published rules (``top_p_logits`` and ``top_k_logits`` in its generation_utils.py), but in
    float64, and of equal tokens at top-p's edge the lowest ids stay.

    Temperature 0 is taken as 1. Returns logits before temperature: the very tensor given if nothing
    is filtered, else float64.
    """
    if top_p is None and top_k is None:
        return logits_PV
    logits_PV = logits_PV.double()
    if top_p is not None:
        sorted_PV, order_PV = (logits_PV / (temperature or 1.0)).sort(
            dim=-1, descending=True, stable=True
        )
        probabilities_PV = sorted_PV.softmax(dim=-1)
        before_PV = probabilities_PV.cumsum(dim=-1).roll(1, dims=-1)
        before_PV[:, 0] = 0.0
        dropped_PV = torch.zeros_like(order_PV, dtype=torch.bool)
        dropped_PV = dropped_PV.scatter(-1, order_PV, before_PV > top_p)
        logits_PV = logits_PV.masked_fill(dropped_PV, -torch.inf)
    if top_k is not None and top_k < logits_PV.shape[-1]:
        least_P1 = logits_PV.topk(top_k, dim=-1).values[:, -1:]
        logits_PV = logits_PV.masked_fill(logits_PV < least_P1, -torch.inf)
    return logits_PV


class Predictor:
    """Predicts tokens and scores under one config, with one random stream a row."""

    def __init__(
        self,
        config: SamplerConfig,
        special_tokens: SpecialTokens,
        generators: Sequence[torch.Generator],
        device: torch.device,
    ) -> None:
        """Take the settings and put the suppressed ids on the device."""
        never = [special_tokens.eos_token_id] if config.suppress_eos_logits else []
        last = special_tokens.end_token_ids if config.suppress_eos_eot_confidence else []
        self._config = config
        self._strategy = STRATEGIES[config.remasking]
        self._generators = list(generators)
        self._never_predicted_N = torch.tensor(never, dtype=torch.int64, device=device)
        self._revealed_last_N = torch.tensor(last, dtype=torch.int64, device=device)

    def __call__(self, logits_BPV: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return a token and a score at each position, and whether the token's logit is finite.

        The ``counts`` masked positions of each row come first; the rest is filler, for which no
        random number is drawn.
        """
        logits_BPV = _suppress(logits_BPV, self._never_predicted_N)
        rows = zip(logits_BPV, counts, self._generators, strict=True)
        predicted = [self._predict_row(*row) for row in rows]
        tokens_BP, scores_BP = (torch.stack(parts) for parts in zip(*predicted, strict=True))
        return tokens_BP, scores_BP, _is_finite(logits_BPV, tokens_BP)

    def likeliest(self, logits_BPV: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest token at each position, and whether its logit is finite."""
        logits_BPV = _suppress(logits_BPV, self._never_predicted_N)
        tokens_BP = logits_BPV.argmax(dim=-1)
        return tokens_BP, _is_finite(logits_BPV, tokens_BP)

    def _predict_row(
        self, logits_PV: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        config, strategy = self._config, self._strategy
        likely_PV = keep_likely(
            logits_PV, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k
        )
        tokens_P = likely_PV.argmax(dim=-1)  # of equal ones the lowest id
        if config.temperature > 0:
            drawn_P = gumbel_argmax(likely_PV[:count], config.temperature, generator)
            tokens_P = torch.cat([drawn_P, tokens_P[count:]])
        if strategy.score is None:
            return tokens_P, pad(_uniform(count, generator=generator), (0, len(tokens_P) - count))
        judged_PV = logits_PV
        if strategy.of_drawn_distribution:
            judged_PV = likely_PV.double() / (config.temperature or 1.0)
        judged_PV = _suppress(judged_PV, self._revealed_last_N).double().softmax(dim=-1)
        scores_P = strategy.score(judged_PV, tokens_P)
        if config.remasking_temperature:
            scores_P = perturb(scores_P, config.remasking_temperature, count, generator)
        return tokens_P, scores_P


def _is_finite(logits_BPV: Tensor, tokens_BP: Tensor) -> Tensor:
    return logits_BPV.gather(-1, tokens_BP[..., None])[..., 0].isfinite()


def _suppress(logits_PV: Tensor, token_ids_N: Tensor) -> Tensor:
    """Return the logits with minus infinity at some tokens; the very tensor if there are none."""
    if token_ids_N.numel() == 0:
        return logits_PV
    return logits_PV.index_fill(-1, token_ids_N, -torch.inf)
