"""Sampler options without a generation length, which each data set gives anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from opencompass_llada.logs import get_logger
from opencompass_llada.options import check_call, show
from opencompass_llada.sampling import SamplerConfig, cap_steps, parse_sampler_config, plan_blocks

logger = get_logger(__name__)


class SamplerSettings:
    """Options of the sampler, checked as far as that is possible without a length.

    Nothing here changes after construction: the steps that a short data set cannot use are capped
    in a config of its own (the papers' wrapper lowers them in place, for every later data set too).
    """

    def __init__(
        self,
        options: Mapping[str, Any] | SamplerConfig | None = None,
        defaults: Mapping[str, Any] | None = None,
        *,
        paper_form: bool = False,
    ) -> None:
        """Check the options.

        Args:
            options: Field names and values of `SamplerConfig`; None for its defaults.
            defaults: A family's own defaults, for what the options leave out.
            paper_form: Whether the options were given as the papers' diffusion_config, whose
                defaults are then those of the papers' wrapper.

        Raises:
            ValueError: If a name is unknown or a value does not fit.
        """
        if not isinstance(options, SamplerConfig | Mapping | None):
            raise ValueError(f"sampler={show(options)} must be a dict of options")
        own = asdict(options) if isinstance(options, SamplerConfig) else dict(options or {})
        lengths: dict[str, Any] = {
            name: own[name] for name in ("num_steps", "generation_length") if name in own
        }
        own |= check_call(SamplerConfig, lengths)
        self.given: tuple[str, ...] = tuple(name for name in own if name != "seed")
        self.paper_form = paper_form
        self._own = MappingProxyType(own)
        given = {**(defaults or {}), **own}
        self.default_length: int | None = given.pop("generation_length", None)
        self._options = MappingProxyType(given)
        self._logged: set[int] = set()
        # How the steps fit the blocks is known only with a length; all else is checked here.
        self.resolved: SamplerConfig = parse_sampler_config({**given, "num_steps": None})
        self.seed: int = self.resolved.seed
        steps = given.get("num_steps")
        if steps is not None and steps < 1:
            raise ValueError(f"num_steps={steps!r} must be a positive integer, or None")
        if self.default_length is not None:
            self.for_length(self.default_length)

    @classmethod
    def under_any(
        cls,
        options: Mapping[str, Any] | SamplerConfig | None,
        defaults: Sequence[Mapping[str, Any]],
        generation_length: int | None = None,
        *,
        paper_form: bool = False,
    ) -> SamplerSettings:
        """Return the options over the first defaults that they fit, the family being unknown yet.

        Args:
            options: As of the constructor.
            defaults: Of the families that it may be, at least one.
            generation_length: A length that they must fit as well; None for none.
            paper_form: As of the constructor.

        Returns:
            The settings; `with_defaults` puts the right defaults under them.

        Raises:
            ValueError: What is wrong under the first defaults, if they fit none.
        """
        faults: list[ValueError] = []
        for candidate in defaults:
            try:
                settings = cls(options, candidate, paper_form=paper_form)
                if generation_length is not None:
                    settings.for_length(generation_length)
                return settings
            except ValueError as fault:
                faults.append(fault)
        raise faults[0]

    def with_defaults(
        self, defaults: Mapping[str, Any], paper_defaults: Mapping[str, Any] | None = None
    ) -> SamplerSettings:
        """Return the same options over a family's own defaults, checked anew.

        Args:
            defaults: The family's.
            paper_defaults: Those of the papers' wrapper, which go before them in the papers' form.
        """
        under = {**defaults, **((paper_defaults or {}) if self.paper_form else {})}
        return SamplerSettings(self._own, under, paper_form=self.paper_form)

    def for_length(self, generation_length: int) -> SamplerConfig:
        """Return the settings for one generation length.

        More steps than there are tokens are capped, as in the papers' code; fewer that do not fit
        blocks are an error.

        Args:
            generation_length: Tokens to generate, at least 1.

        Returns:
            A config of its own.

        Raises:
            ValueError: If the steps do not fit; the nearest values that do are named.
        """
        steps = self._options.get("num_steps")
        free = parse_sampler_config(
            {**self._options, "generation_length": generation_length, "num_steps": None}
        )
        if steps is None:
            return free
        tokens = plan_blocks(free).padded_length
        if steps > tokens:
            if generation_length not in self._logged:
                self._logged.add(generation_length)
                logger.info(
                    "num_steps=%d is capped at %d for generations of %d tokens, one token a step",
                    steps,
                    tokens,
                    generation_length,
                )
            steps = cap_steps(steps, generation_length, free.block_length)
        return parse_sampler_config(
            {**self._options, "generation_length": generation_length, "num_steps": steps}
        )
