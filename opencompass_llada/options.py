"""Checks of user-given names: unknown ones are refused and the nearest valid one is named.

Knows nothing of what the options mean; each configuration class checks its own values.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name closest in spelling to ``name``.

    Args:
        name: What the user wrote.
        allowed: The valid names.

    Returns:
        The closest valid name, or None when nothing comes near.
    """
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name_message(what: str, name: str, allowed: Iterable[str]) -> str:
    """Compose the error text for one unknown name.

    Args:
        what: The kind of thing named, e.g. ``"RoPE scaling type"``.
        name: What the user wrote.
        allowed: The valid names.

    Returns:
        One sentence that names the value, the nearest valid name and all valid names.
    """
    names = sorted(allowed)
    guess = nearest(name, names)
    hint = f" Did you mean {guess!r}?" if guess else ""
    return f"Unknown {what} {name!r}.{hint} Valid: {', '.join(names) or '(none)'}."


def reject_unknown(what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise if any given name is not allowed.

    Args:
        what: The kind of thing named, used in the message.
        given: The names that the user wrote.
        allowed: The valid names.

    Raises:
        ValueError: For the first unknown name; the message names the nearest valid one.
    """
    names = list(allowed)
    for name in given:
        if name not in names:
            raise ValueError(unknown_name_message(what, str(name), names))
