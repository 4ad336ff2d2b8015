"""Offers LLaDACausalLM, the model class that OpenCompass builds.

The class is imported when it is asked for: its keywords are read where OpenCompass is missing, too.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opencompass_llada.wrapper.model import LLaDACausalLM

__all__ = ["LLaDACausalLM"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from opencompass_llada.wrapper.model import LLaDACausalLM

    return LLaDACausalLM
