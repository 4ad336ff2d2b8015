"""What a sampler keeps between denoising steps, and when it refreshes it: the settings.

``none`` recomputes everything at every step and is exact. ``prompt`` keeps keys and values of
everything before the active block and recomputes the block and what follows it; ``dual`` keeps
what follows it too and recomputes the block alone (prefix and dual cache of Fast-dLLM, arXiv
2505.22618). Both are approximate, since in a bidirectional network every token's keys and values
depend on all others; a refresh recomputes and keeps everything anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencompass_llada.options import build, check_fields, unknown_name_message

CACHE_TYPES = ("none", "prompt", "dual")
REFRESH_NAMES = ("block", "never")
CACHE_DTYPES = ("bfloat16", "float8")


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """What is kept, in what dtype, and how often it is refreshed."""

    type: str = "none"
    """``none``, ``prompt`` or ``dual``."""

    refresh: str | int | None = None
    """``block`` (the default): at the start of every block; a number: after that many steps,
    the refreshing one counted; ``never``: the first pass alone keeps, and only the prompt counts
    as kept before the active block."""

    dtype: str | None = None
    """``bfloat16`` (the default): the network's own 16-bit or 32-bit dtype; ``float8``: half of
    16 bit, with a scale for each token and head."""

    def __post_init__(self) -> None:
        """Fill the defaults in and check every value.

        Raises:
            ValueError: For the first value that does not fit, with the rule and a value that does.
        """
        check_fields(self, "cache ")
        if self.type not in CACHE_TYPES:
            raise ValueError(unknown_name_message("cache type", str(self.type), CACHE_TYPES))
        if self.type == "none":
            for name in ("refresh", "dtype"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"cache {name}={getattr(self, name)!r} has no effect with type='none', "
                        "which keeps nothing; use type='prompt' or 'dual', or leave it out"
                    )
            return
        if self.refresh is None:
            object.__setattr__(self, "refresh", "block")
        if self.dtype is None:
            object.__setattr__(self, "dtype", "bfloat16")
        _check_refresh(self.refresh)
        if self.dtype not in CACHE_DTYPES:
            raise ValueError(unknown_name_message("cache dtype", str(self.dtype), CACHE_DTYPES))

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self.type != "none"

    def describe(self) -> str:
        """Return a short name, such as ``prompt, refresh block, bfloat16``."""
        return f"{self.type}, refresh {self.refresh}, {self.dtype}" if self.keeps else "none"


def parse_cache_options(options: Mapping[str, Any] | CacheOptions | str | None) -> CacheOptions:
    """Make cache options of a mapping such as ``dict(type='prompt', refresh=8)`` or a type's name.

    Args:
        options: Field names and values; a type alone; None for the default; options are returned
            as they are.

    Returns:
        The checked options.

    Raises:
        ValueError: If a name is unknown (the nearest valid one is named) or a value does not fit.
    """
    return build(CacheOptions, options, "cache", by_name="type")


def _check_refresh(refresh: str | int | None) -> None:
    if isinstance(refresh, str):
        if refresh not in REFRESH_NAMES:
            names = [*REFRESH_NAMES, "a number of steps"]
            raise ValueError(unknown_name_message("cache refresh", refresh, names))
    elif refresh is None or refresh < 1:
        raise ValueError(
            f"cache refresh={refresh!r} must be 'block', 'never' or a number of steps; use 1 or "
            "more"
        )
