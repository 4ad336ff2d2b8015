"""The options of a perplexity estimate, checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from opencompass_llada.options import unknown_name_message

ESTIMATORS = ("bound", "longllada")
#: Estimator -> draws where none are given: LongLLaDA's own number, and one that this package's
#: tiny model gives a standard error of a few percent with.
DEFAULT_DRAWS = {"bound": 16, "longllada": 8}


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions:
    """How the tokens of a target are scored.

    An autoregressive model is scored exactly: of these options it uses none.
    """

    estimator: str = "bound"
    """``bound``: the likelihood bound. ``longllada``: the unweighted mean of LongLLaDA."""
    num_draws: int | None = None
    """Masks drawn for a target (``bound``) or for a chunk (``longllada``); each is one forward
    pass of one row. None is 16 and 8."""
    chunk_length: int = 64
    """``longllada``: tokens that are masked together, given all text before them."""
    batch_size: int = 1
    """Rows in one call of the model."""
    seed: int = 0
    """Same seed, same masks: two models or two prefixes then differ by no noise of the masks."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: With the name, the value, the rule and a valid value.
        """
        if self.estimator not in ESTIMATORS:
            raise ValueError(unknown_name_message("estimator", self.estimator, ESTIMATORS))
        for name in ("chunk_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.num_draws is not None and self.num_draws < 1:
            raise ValueError(f"num_draws={self.num_draws} must be at least 1.")
        if self.estimator == "bound" and (self.draws < 4 or self.draws % 2):
            raise ValueError(
                f"num_draws={self.num_draws} must be even and at least 4 for estimator='bound': "
                "two draws in each of at least two strata give the standard error; use "
                f"{max(4, self.draws + self.draws % 2)}."
            )

    @property
    def draws(self) -> int:
        """The number of draws, the default put in its place."""
        return DEFAULT_DRAWS[self.estimator] if self.num_draws is None else self.num_draws
