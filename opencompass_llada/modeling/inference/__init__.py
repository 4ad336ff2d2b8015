"""Fast passes over the native networks, with the plain ``forward`` as their oracle."""

from opencompass_llada.modeling.inference.network import FastNetwork, PassOptions
from opencompass_llada.modeling.inference.session import PassServer, Session

__all__ = ["FastNetwork", "PassOptions", "PassServer", "Session"]
