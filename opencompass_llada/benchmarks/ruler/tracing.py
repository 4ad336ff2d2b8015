"""RULER's variable tracking (vt): a chain of assignments between repeated sentences.

Draws and wording are OpenCompass's ``RulerVtDataset`` with one chain. Reads no files.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass

import numpy as np

from opencompass_llada.benchmarks.ruler.fitting import RulerSample
from opencompass_llada.benchmarks.ruler.prompts import SENTENCES, TEMPLATES, RulerSpec, TracingTask

NAME_LETTERS = 5


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What chance decides in one sample."""

    num_items: int
    """Times the sentences stand."""
    names: list[str]
    """Variables, in the chain's order."""
    value: int
    """What the first is assigned."""
    places: list[int]
    """Before which of the sentences the assignments stand, ascending."""


class TracingWriter:
    """Writes samples; an item is one line of repeated sentences."""

    def __init__(self, spec: RulerSpec, task: TracingTask) -> None:
        """Keep the task and start both streams of random numbers.

        Args:
            spec: The data set.
            task: Its task's parameters.
        """
        self.num_hops = task.num_hops
        self.rng = random.Random(spec.seed)
        # The legacy generator: values come from numpy's, and must be those of the original.
        self.value_rng = np.random.RandomState(spec.seed)  # noqa: NPY002
        self.step = 10 if spec.as_published else 1
        self.fewest = task.num_hops + 2  # fewer lines would be cut into sentences there
        self.most: int | None = None
        self.last_tried: int | None = None
        # The original draws again and never shortens.
        self.patience = 20 if spec.as_published else 1

    def draw(self, index: int, num_items: int) -> Draw:
        """Take a sample's draws, in OpenCompass's order."""
        names = [self._draw_name() for _ in range(self.num_hops + 1)]
        while len(set(names)) < len(names):
            # Differs from the original, which fails here (once in a million samples).
            names = [self._draw_name() for _ in names]
        return Draw(
            num_items=num_items,
            names=names,
            value=int(self.value_rng.randint(10000, 99999)),
            places=sorted(self.rng.sample(range(num_items), len(names))),
        )

    def _draw_name(self) -> str:
        return "".join(self.rng.choices(string.ascii_uppercase, k=NAME_LETTERS))

    def write(self, drawn: Draw) -> RulerSample:
        """Write the sample of a draw."""
        names = drawn.names
        chain = [f"VAR {names[0]} = {drawn.value}"]
        chain += [f"VAR {new} = VAR {old} " for old, new in zip(names, names[1:], strict=False)]
        lines = [SENTENCES + "\n"] * drawn.num_items
        for number, (place, assignment) in enumerate(zip(drawn.places, chain, strict=True)):
            lines.insert(place + number, assignment)
        prompt = TEMPLATES[TracingTask].format(
            context=" ".join(lines).replace(". \n", ".\n"),
            query=str(drawn.value),
            num_v=len(names),
        )
        return RulerSample(prompt=prompt, answers=tuple(names))

    def with_answer(self, sample: RulerSample) -> str:
        """Return the prompt and the answers as Python writes a list, as OpenCompass counts."""
        return f"{sample.prompt} {list(sample.answers)}"
