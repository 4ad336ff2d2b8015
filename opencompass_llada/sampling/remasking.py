"""The remasking strategies: what each goes by, and which options it leaves without effect.

A table and its checks; the scores are made in ``scores.py``, the choice in ``acceptance.py``.

LLaDA's (generate.py of github.com/ML-GSAI/LLaDA) and Dream's (``alg`` in generation_utils.py of
Dream-org/Dream-v0-Instruct-7B) differ in three ways: LLaDA's confidence is the token's probability
before temperature, Dream's is made of the distribution that the token was drawn from (after
temperature, top-p and top-k); LLaDA spreads reveals evenly, Dream goes by timesteps
(``schedule.py``); and LLaDA's ``random`` reveals a fixed number of random positions where Dream's
``origin`` decides for each position alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opencompass_llada.sampling.config import SamplerConfig


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What a remasking strategy goes by."""

    schedule: str
    """The schedule that it was published with."""

    confident: bool
    """Whether positions are ranked by what the model says, and not by chance."""

    of_drawn_distribution: bool = False
    """Whether that is read off the distribution after temperature, top-p and top-k."""

    of_token: bool = False
    """Whether that is the predicted token's own probability."""


STRATEGIES = {
    "low_confidence": Strategy(schedule="even", confident=True, of_token=True),
    "random": Strategy(schedule="even", confident=False),
    "origin": Strategy(schedule="timesteps", confident=False),
    "maskgit_plus": Strategy(
        schedule="timesteps", confident=True, of_drawn_distribution=True, of_token=True
    ),
    "topk_margin": Strategy(schedule="timesteps", confident=True, of_drawn_distribution=True),
    "entropy": Strategy(schedule="timesteps", confident=True, of_drawn_distribution=True),
}
REMASKING_STRATEGIES = tuple(STRATEGIES)


def check_combinations(config: SamplerConfig) -> None:
    """Refuse options that have no effect beside others; the published codes ignore them.

    Args:
        config: A config whose values are each valid.

    Raises:
        ValueError: For the first option without effect, with what to do instead.
    """
    strategy, name = STRATEGIES[config.remasking], config.remasking
    if config.suppress_eos_eot_confidence and not strategy.of_token:
        raise ValueError(
            f"suppress_eos_eot_confidence=True has no effect with remasking={name!r}, which "
            "uses no confidence of a token; use remasking='low_confidence' or 'maskgit_plus', or "
            "suppress_eos_logits=True"
        )
    if config.remasking_temperature and not strategy.confident:
        raise ValueError(
            f"remasking_temperature={config.remasking_temperature} has no effect with "
            f"remasking={name!r}, which chooses positions at random as it is; leave it out, or "
            "use remasking='entropy'"
        )
    for option in ("top_p", "top_k"):
        idle = config.temperature == 0 and not strategy.of_drawn_distribution
        if getattr(config, option) is not None and idle:
            raise ValueError(
                f"{option}={getattr(config, option)} has no effect at temperature=0 with "
                f"remasking={name!r}; use {option}=None, or a temperature above 0"
            )
    if config.timestep_eps is not None and config.resolved_schedule != "timesteps":
        raise ValueError(
            f"timestep_eps={config.timestep_eps} has no effect with schedule="
            f"{config.resolved_schedule!r}; leave it out, or use schedule='timesteps'"
        )
    if name == "origin" and config.resolved_schedule != "timesteps":
        raise ValueError(
            f"schedule={config.schedule!r} gives no probabilities, by which remasking='origin' "
            "reveals; use schedule='timesteps' (or None), or remasking='random'"
        )
