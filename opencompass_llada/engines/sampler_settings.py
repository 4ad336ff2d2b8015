"""Holds sampler options without a generation length, which each data set gives anew."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from opencompass_llada.options import build, check_value, show
from opencompass_llada.sampling import SamplerConfig, cap_steps

logger = logging.getLogger(__name__)


class SamplerSettings:
    """Options of the sampler over a family's defaults, checked as far as that is possible.

    Nothing here changes after construction: the steps that a short data set cannot use are capped
    in a config of its own (the papers' wrapper lowers them in place, for every later data set too).
    """

    def __init__(
        self,
        options: Mapping[str, Any] | SamplerConfig | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Check field names and values of `SamplerConfig`, the family's defaults under them."""
        if not isinstance(options, SamplerConfig | Mapping | None):
            raise ValueError(f"sampler={show(options)} must be a dict of options")
        own = asdict(options) if isinstance(options, SamplerConfig) else dict(options or {})
        self.given: tuple[str, ...] = tuple(name for name in own if name != "seed")
        self.unset = {k: v for k, v in (defaults or {}).items() if k not in own}
        values = {**self.unset, **own}
        self._num_steps = check_value("num_steps", values.pop("num_steps", None), int | None)
        if self._num_steps is not None and self._num_steps < 1:
            raise ValueError(f"num_steps={self._num_steps} must be a positive integer, or None")
        # How the steps fit the blocks is known only with a length; all else is checked here.
        self.resolved: SamplerConfig = build(SamplerConfig, values, "sampler")
        self.seed: int = self.resolved.seed
        self._logged: set[int] = set()
        self.default_length: int | None = None
        if "generation_length" in values:
            self.default_length = self.resolved.generation_length
            self.for_length(self.default_length)

    @classmethod
    def over_any(
        cls,
        options: Mapping[str, Any] | SamplerConfig | None,
        defaults: Sequence[Mapping[str, Any]],
        generation_length: int | None = None,
    ) -> SamplerSettings:
        """Return the options over the first defaults that they fit, at a length if it is given.

        The defaults are of the families that the checkpoint may be of. If they fit none, what is
        wrong under the first is raised.
        """
        faults: list[ValueError] = []
        for candidate in defaults:
            try:
                settings = cls(options, candidate)
                if generation_length is not None:
                    settings.for_length(generation_length)
                return settings
            except ValueError as fault:
                faults.append(fault)
        raise faults[0]

    def for_length(self, generation_length: int) -> SamplerConfig:
        """Return a config of its own for one generation length, in tokens.

        More steps than there are tokens are capped, as in the papers' code; fewer that do not fit
        blocks are a ValueError, which names the nearest values that do.
        """
        free, steps = replace(self.resolved, generation_length=generation_length), self._num_steps
        if steps is None:
            return free
        tokens = free.plan().padded_length
        if steps > tokens:
            if generation_length not in self._logged:
                self._logged.add(generation_length)
                what = "num_steps=%d is capped at %d for generations of %d tokens, one token a step"
                logger.info(what, steps, tokens, generation_length)
            steps = cap_steps(steps, generation_length, free.block_length)
        return replace(free, num_steps=steps)
