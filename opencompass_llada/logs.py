"""One place that names the package's loggers; it sets no handlers and no levels."""

import logging


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module.

    Args:
        name: The module's ``__name__``.

    Returns:
        A standard library logger below ``opencompass_llada``.
    """
    return logging.getLogger(name)
