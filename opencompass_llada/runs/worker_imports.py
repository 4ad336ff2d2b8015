"""Imports what the workers of a run need, for the process that they are forks of."""

from opencompass_llada.runs.quick_imports import imports_uncollected

with imports_uncollected():
    import opencompass_llada.runs.tasks  # most of it
    import opencompass_llada.wrapper  # noqa: F401
