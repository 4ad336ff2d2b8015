"""What the configurations of all native networks share: checks that name the field.

A configuration keeps the published names of its own family's config.json; the network reads the
few facts that it needs under one name each (``rope_theta``, ``head_dim``, ``trained_length``,
``init_std``).
Scaling of RoPE is not part of it: it is given when the network is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PretrainedConfig


class BidirectionalConfig(PretrainedConfig):
    """Base of the configurations of the native masked diffusion networks."""

    implemented: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Published fields whose value must be one of these: what the network does."""

    published_by: ClassVar[str] = ""
    """The checkpoints that the family's networks read, for messages."""

    @property
    def head_dim(self) -> int:
        """Head size in channels."""
        raise NotImplementedError

    @property
    def trained_length(self) -> int:
        """Tokens that the checkpoint was trained on, from which RoPE scaling counts."""
        raise NotImplementedError

    def _refuse_unimplemented(self, given: Mapping[str, Any]) -> None:
        for name, values in self.implemented.items():
            if name in given and given[name] not in values:
                raise ValueError(
                    f"config.json: {name}={given[name]!r} is not implemented; this network "
                    f"supports {' or '.join(repr(value) for value in values)} (the value of "
                    f"{self.published_by}). Use a checkpoint of that family."
                )

    def _check_multiple(self, name: str, divisor: str) -> None:
        if getattr(self, name) % getattr(self, divisor):
            raise ValueError(
                f"config.json: {name}={getattr(self, name)} must be a multiple of "
                f"{divisor}={getattr(self, divisor)}."
            )

    def _check_token_id(self, name: str, size: str) -> None:
        if not 0 <= getattr(self, name) < getattr(self, size):
            raise ValueError(
                f"config.json: {name}={getattr(self, name)} must be in 0 .. {size}-1="
                f"{getattr(self, size) - 1}. Set it to the id that the tokenizer gives."
            )
