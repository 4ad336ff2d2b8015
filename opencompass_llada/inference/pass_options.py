"""States what passes may give up of the exact arithmetic; computes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from opencompass_llada.options import check_fields, reject_unknown

PREFILL_TYPES = ("exact", "float8", "sparse")


@dataclass(frozen=True, kw_only=True)
class PrefillOptions:
    """How the attention of a full pass is computed; for networks in which all see all."""

    type: str = "exact"
    """``exact``: in the network's own dtype; ``float8``: queries, keys, values and their weights in
    e4m3, where a GPU has compute capability 8.9 or later; ``sparse``: the same over a share of the
    keys."""
    keep: float | None = None
    """Of ``sparse``: the share of key tiles that each tile of queries sees, above 0 and up to 1.
    Default 0.3."""
    shortest: int | None = None
    """Rows of fewer tokens are computed exactly. Default 4,096."""
    dense_tail: int | None = None
    """Of ``sparse``: tokens at the end of a row, the answer's masks included, whose queries see all
    keys and whose keys all queries see. Default 512."""
    near: int | None = None
    """Of ``sparse``: key tiles on both sides of a tile of queries, always seen. Default 2."""

    def __post_init__(self) -> None:
        """Fill the defaults in and check every value."""
        check_fields(self, "prefill ")
        reject_unknown("prefill type", [self.type], PREFILL_TYPES)
        defaults: dict[str, float] = {}
        if self.type != "exact":
            defaults["shortest"] = 4096
        if self.type == "sparse":
            defaults.update(keep=0.3, dense_tail=512, near=2)
        for name in ("keep", "shortest", "dense_tail", "near"):
            given = getattr(self, name)
            if given is not None and name not in defaults:
                raise ValueError(
                    f"prefill {name}={given!r} has no effect with type={self.type!r}; leave it out"
                )
            if given is None and name in defaults:
                object.__setattr__(self, name, defaults[name])
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(
                f"prefill keep={self.keep!r} must be above 0 and at most 1, the share of the keys "
                "that is seen; use 0.3, or type='float8' for all"
            )
        for name, lowest in (("shortest", 1), ("dense_tail", 1), ("near", 0)):
            given = getattr(self, name)
            if given is not None and given < lowest:
                raise ValueError(f"prefill {name}={given!r} must be {lowest} or more")

    @property
    def enabled(self) -> bool:
        """Whether anything differs from the exact pass."""
        return self.type != "exact"

    def covers(self, length: int) -> bool:
        """Whether a row of so many tokens is computed otherwise than exactly."""
        return self.enabled and length >= (self.shortest or 0)

    def check_answer(self, generation_length: int) -> None:
        """Refuse an answer longer than the tail whose queries see all."""
        if self.dense_tail is not None and generation_length > self.dense_tail:
            raise ValueError(
                f"generation_length={generation_length} is more than the "
                f"prefill dense_tail={self.dense_tail} tokens whose queries see all keys, and an "
                f"answer must be among them; use prefill=dict(dense_tail={generation_length}) or "
                "more"
            )


@dataclass(frozen=True, kw_only=True)
class PassOptions:
    """What passes give up of the exact arithmetic; nothing by default."""

    precision: str | None = None
    """``float8``: weights of the linear layers in e4m3, and their inputs but in passes of at most
    `tilings.SMALL_PRODUCT` tokens a row; None: in the weights' dtype."""
    prefill: PrefillOptions = PrefillOptions()

    def __post_init__(self) -> None:
        """Check the precision."""
        if self.precision is not None:
            reject_unknown("precision", [self.precision], ("float8",))

    @property
    def given(self) -> list[str]:
        """Names of the options that differ from the exact pass."""
        own = {"precision": self.precision is not None, "prefill": self.prefill.enabled}
        return [name for name, differs in own.items() if differs]

    def refuse_scoring(self) -> None:
        """Raise a ValueError where texts are scored, in which full passes are always exact."""
        if self.prefill.enabled:
            raise ValueError(
                f"prefill type={self.prefill.type!r} has no effect where texts are scored, whose "
                "passes see all keys in the network's dtype; leave prefill out of models that are "
                "scored"
            )

    def refuse(self, path: str, why: str) -> None:
        """Raise a ValueError if there are any, for a checkpoint that cannot have them."""
        if self.given:
            says, it = ("say", "them") if len(self.given) > 1 else ("says", "it")
            raise ValueError(
                f"{' and '.join(self.given)} {says} how this package's diffusion networks compute, "
                f"and {path!r} {why}; leave {it} out"
            )
