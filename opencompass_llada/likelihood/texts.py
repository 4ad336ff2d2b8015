"""Scores texts with a model, each split into condition and target in tokens.

A whole text is tokenised once, as the model would read it, and split at the longest common token
prefix: of the text and its condition alone, or of several texts that differ in their endings.
"So the sum is 12" of [So, _the, _sum, _is, _12] is scored at [_12] given "So the sum is 1"; by
counting the condition's tokens, as common evaluation harnesses do, the "2" never is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import Any

from opencompass_llada.likelihood.block_scorer import BlockScorer
from opencompass_llada.likelihood.estimate import Estimate, LikelihoodOptions, parse_scoring
from opencompass_llada.likelihood.scorers import CausalScorer, Ids, MaskedScorer
from opencompass_llada.prompting.encode import Piece, PromptText
from opencompass_llada.prompting.truncate import LengthLimit, PromptTooLongError, truncate


@dataclass(frozen=True, kw_only=True)
class TextScorer:
    """Scores texts with one model."""

    tokens: MaskedScorer | BlockScorer | CausalScorer
    encode: Callable[[str], list[int]]
    """Text to token ids, with a beginning of sequence if the model has one."""
    count_bytes: Callable[[Ids, Ids], int]
    """Tokens, and those before them, to the bytes of UTF-8 that they stand for."""
    start_token_id: int | None
    """That beginning's id; it is never scored."""
    limit: LengthLimit
    """On condition and target together."""
    options: LikelihoodOptions

    def with_options(self, given: Mapping[str, Any] | None) -> TextScorer:
        """Return a scorer with other estimator, draws, seed or batch size; see `parse_scoring`."""
        return replace(self, options=parse_scoring(given, self.options))

    def score_text(self, text: str, num_condition_tokens: int = 0) -> Estimate:
        """Score a text, its first tokens being given; texts of one length are masked alike."""
        token_ids = self.encode(text)
        has_start = token_ids[:1] == [self.start_token_id]
        border = max(num_condition_tokens, int(has_start))
        if border >= len(token_ids):
            raise ValueError(
                f"the text {text[:60]!r} has {len(token_ids)} tokens, of which {border} are given: "
                "none is left to score; look at the data set's prompt_template"
            )
        return self._score(token_ids[:border], token_ids[border:], draw_key=())

    def score_continuation(self, text: str, continuation: str) -> Estimate:
        """Score the end of a whole text given what stands before it."""
        if not continuation or not text.endswith(continuation):
            raise ValueError(
                f"the text ...{text[-60:]!r} does not end in its continuation {continuation!r}, "
                "which is to be scored given the rest; make the data set's prompt_template end in "
                "its column 'cont'"
            )
        whole = self.encode(text)
        context = self.encode(_without_end(text, len(continuation)))
        border = min(len(commonprefix([whole, context])), len(whole) - 1)
        return self._score(whole[:border], whole[border:], draw_key=())

    def score_options(self, texts: Sequence[str]) -> list[Estimate]:
        """Score what differs between texts, given the tokens that they all begin with."""
        condition, rests = split_options([self.encode(text) for text in texts])
        if condition and all(len(rest) == 1 for rest in rests):
            shortened = self._shorten(condition, 1)
            return self.tokens.score_next(shortened, [rest[0] for rest in rests])
        estimates = [self._score(condition, rest, draw_key=condition) for rest in rests]
        for text, rest, estimate in zip(texts, rests, estimates, strict=True):
            if estimate.num_tokens != len(rest):
                raise ValueError(
                    f"the options' texts begin differently ({text[:40]!r}), and an autoregressive "
                    "model predicts nothing at the start of a text; begin the prompt_template of "
                    "every label with the same words"
                )
        return estimates

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self.encode(text))

    def count_scored_bytes(self, text: str, estimate: Estimate) -> int:
        """Return the bytes of UTF-8 that the scored end of a text takes, at least 1."""
        token_ids = self.encode(text)
        border = len(token_ids) - estimate.num_tokens
        return max(self.count_bytes(token_ids[border:], token_ids[:border]), 1)

    def _score(self, condition: Ids, target: Ids, draw_key: Ids) -> Estimate:
        shortened = self._shorten(condition, len(target))
        return self.tokens.score(shortened, target, self.options, draw_key)

    def _shorten(self, condition: Ids, target_length: int) -> Ids:
        """Cut the condition to what the limit leaves beside the target, by the limit's policy."""
        most = self.limit.max_seq_len
        if most is None or len(condition) + target_length <= most:
            return condition
        if target_length >= most:
            raise PromptTooLongError(
                f"{target_length} tokens are to be scored and max_seq_len={most} leaves no room "
                "beside them; only what stands before them can be shortened. Raise max_seq_len to "
                f"{len(condition) + target_length} or more."
            )
        return truncate(condition, limit=most - target_length, policy=self.limit.policy)


def _without_end(text: str, length: int) -> str:
    """Return a text without its last characters; a rendered conversation stays one."""
    if not isinstance(text, PromptText):
        return text[:-length]
    pieces, left = [], len(text) - length
    for piece in text.pieces:
        part = piece.text[: max(left, 0)]
        left -= len(piece.text)
        if part:
            pieces.append(Piece(part, is_literal=piece.is_literal and part == piece.text))
    return PromptText(pieces)


def split_options(rows: Sequence[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Split texts into the condition that they share and the rest of each.

    ``[1, 2, 3]`` and ``[1, 2, 4, 5]`` give ``[1, 2]`` and ``[[3], [4, 5]]``. Every rest keeps at
    least one token: ``[1, 2]`` and ``[1, 2, 3]`` give ``[1]`` and ``[[2], [2, 3]]``.
    """
    if not all(rows):
        raise ValueError("a text to score has no tokens; look at the data set's prompt_template")
    length = min(len(commonprefix(rows)), min(map(len, rows)) - 1)
    return list(rows[0][:length]), [list(row[length:]) for row in rows]
