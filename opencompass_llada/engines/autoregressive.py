"""Generates and scores with an autoregressive model: the baselines of masked diffusion models.

Greedy decoding by transformers' own `generate`, with its key/value cache. Rows of a batch are
padded on the left and the padding is masked, so that each row's answer ends where generation
starts.

Shape letters: B rows, L row length.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from opencompass_llada.engines.base import Generation, Totals
from opencompass_llada.likelihood import CausalScorer, Estimate, LikelihoodOptions, causal_logits
from opencompass_llada.rope.frequencies import ResolvedRope
from opencompass_llada.sampling import IsComplete


class AutoregressiveEngine:
    """Generates greedily with an AutoModelForCausalLM and keeps count of what that took."""

    generates_by = "autoregressive"

    def __init__(
        self,
        model: Any,
        *,
        end_token_ids: Sequence[int],
        pad_token_id: int,
        rope: ResolvedRope | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: The loaded network of transformers, in evaluation mode.
            end_token_ids: Ids after which a row's generation ends, at least one.
            pad_token_id: What fills the left of shorter rows; never attended to.
            rope: The scaling that the network has, if it has rotary embeddings.
        """
        self.model = model
        self.totals = Totals()
        self.device: torch.device = next(model.parameters()).device
        self.end_token_ids = tuple(end_token_ids)
        self._pad_token_id = pad_token_id
        self._rope = rope
        self._scorer = CausalScorer(causal_logits(model), device=self.device)

    @property
    def longest_context(self) -> int | None:
        """Tokens up to which the model's RoPE was computed; None where it is not resolved here."""
        return None if self._rope is None else self._rope.longest_context

    @property
    def is_scaled(self) -> bool:
        """Whether a RoPE scaling of ours is at work."""
        return self._rope is not None and self._rope.method != "none"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        is_complete: IsComplete | None = None,
    ) -> list[Generation]:
        """Generate after each prompt of one batch; see `Engine.generate`.

        Stops at end tokens alone: ``is_complete`` is not asked.

        Raises:
            ValueError: If a prompt is empty, which leaves nothing to go on from.
            FloatingPointError: If the model's logits are not finite.
        """
        if not prompts:
            return []
        empty = [index for index, prompt in enumerate(prompts) if not prompt]
        if empty:
            raise ValueError(
                f"prompt {empty[0]} of the batch has no token, and an autoregressive model needs "
                "one to go on from; give it text, or a tokenizer that adds a beginning of sequence"
            )
        ids_BL, attention_BL = pad_left(prompts, self._pad_token_id, self.device)
        start = time.perf_counter()
        output_BL = self._decode(ids_BL, attention_BL, max_new_tokens)
        rows = output_BL[:, ids_BL.shape[1] :].tolist()
        seconds = (time.perf_counter() - start) / len(prompts)
        generations = [self._read(row, seconds) for row in rows]
        self.totals.add(generations, max(g.num_forward_passes for g in generations))
        return generations

    def score(
        self,
        prefix: Sequence[int],
        target: Sequence[int],
        options: LikelihoodOptions,
        draw_key: Sequence[int] | None = None,
    ) -> Estimate:
        """Return the exact negative log-likelihood of a target; see `CausalScorer.score`."""
        return self._scorer.score(prefix, target, options)

    def score_next(self, prefix: Sequence[int], candidates: Sequence[int]) -> list[Estimate]:
        """Score several single tokens after a prefix; see `CausalScorer.score_next`."""
        return self._scorer.score_next(prefix, candidates)

    @torch.inference_mode()
    def _decode(self, ids_BL: Tensor, attention_BL: Tensor, max_new_tokens: int) -> Tensor:
        return self.model.generate(
            input_ids=ids_BL,
            attention_mask=attention_BL,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(self.end_token_ids),
            pad_token_id=self._pad_token_id,
            logits_processor=[_refuse_non_finite],
            **greedy_options(self.model.generation_config),
        )

    def _read(self, row: Sequence[int], seconds: float) -> Generation:
        """Keep a row up to its first end token; what follows is padding for longer rows."""
        ends = [index for index, token_id in enumerate(row) if token_id in self.end_token_ids]
        kept = list(row[: ends[0] + 1] if ends else row)
        return Generation(token_ids=kept, num_forward_passes=len(kept), seconds=seconds)


def _refuse_non_finite(ids_BL: Tensor, logits_BV: Tensor) -> Tensor:
    """Raise where a logit is NaN or infinite: the largest of them would be no answer."""
    if not bool(torch.stack(torch.aminmax(logits_BV)).isfinite().all()):  # one wait for the GPU
        raise FloatingPointError(
            "The model's logits are not finite; load it in bfloat16 or float32, and check the "
            "checkpoint."
        )
    return logits_BV


#: What else changes greedy decoding: options of generation_config.json and what leaves them out.
_WITHOUT_EFFECT: dict[str, Any] = {
    **{"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0},
    **dict.fromkeys(("min_new_tokens", "suppress_tokens", "begin_suppress_tokens")),
    **dict.fromkeys(("bad_words_ids", "sequence_bias", "exponential_decay_length_penalty")),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "stop_strings", "max_time")),
}


def greedy_options(generation_config: Any) -> dict[str, Any]:
    """Return the options of greedy decoding, whatever a checkpoint's generation_config says.

    The key/value cache is on too: many fine-tuned checkpoints leave ``use_cache`` false behind.
    Options that only sampling reads are put back to their defaults: LLaMA-3's own file sets
    temperature 0.6 and top_p 0.9, which transformers would warn of at every call.

    Args:
        generation_config: The checkpoint's.
    """
    defaults = type(generation_config)()
    names = ("temperature", "top_p", "top_k", "min_p", "typical_p")
    neutral = {name: getattr(defaults, name) for name in names if hasattr(defaults, name)}
    return {"do_sample": False, "use_cache": True, **_WITHOUT_EFFECT, **neutral}


def pad_left(
    prompts: Sequence[Sequence[int]], pad_token_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Lay out prompts so that all end in the last column.

    Prompts ``[7, 8]`` and ``[9]`` with padding P give the rows ``[7, 8]`` and ``[P, 9]``, and the
    attention mask ``[1, 1]`` and ``[0, 1]``.

    Args:
        prompts: Token ids, none empty.
        pad_token_id: What fills the left.
        device: Where the tensors go.

    Returns:
        Ids and attention mask (1 at real tokens), int64 [B, L] each.
    """
    longest = max(map(len, prompts))
    rows = [[pad_token_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)
