"""Solves needle tasks from the prompt alone: the line that is most like the question.

The ceiling that scores are held to. A needle stands in a line of its own, and shares the rare words
of its question as no line of a haystack does. A derivation (reasoning) has no solver.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from opencompass_llada.benchmarks.needle.prompts import JOINT, WORDINGS

_WORD = re.compile(r"[A-Za-z0-9]+|[\u3400-\u9fff]")
_LONGEST = 500  # characters of a line that is no paragraph
_QUESTION = re.compile(r"[^?？]+[?？]")


def solve(prompt: str) -> str | None:
    """Return the line for each question, one below the other; None for a form that is not known."""
    for head, marker in _FORMS:
        body, found, asked = prompt.partition(head)[2].strip().rpartition(marker)
        if found and "\n" not in asked and prompt.startswith(head):
            questions = _QUESTION.findall(asked) or [asked]
            lines = _Lines(body)
            if not lines.terms:
                return None
            return "\n".join(lines.most_like(question.strip(JOINT)) for question in questions)
    return None


def _list_forms() -> Iterator[tuple[str, str]]:
    """Yield what stands before the context and behind it, where the question is at the end."""
    for wordings in WORDINGS.values():
        for wording in wordings:
            for template in (wording.single["End"], wording.several["End"]):
                before, behind = template.split("{context}")
                yield wording.preface + before, behind.split("{question}")[0]


_FORMS = tuple(_list_forms())


class _Lines:
    """The lines of a text with the weights of their terms, rare ones more."""

    def __init__(self, text: str) -> None:
        self.terms = {line: _terms(line) for line in text.split("\n") if len(line) < _LONGEST}
        counts = Counter(term for terms in self.terms.values() for term in terms)
        self.weights = {term: math.log(1 + len(self.terms) / n) for term, n in counts.items()}
        self.totals = {line: self._weigh(terms) for line, terms in self.terms.items()}

    def _weigh(self, terms: set[str]) -> float:
        return sum(map(self.weights.__getitem__, terms))

    def most_like(self, question: str) -> str:
        """Return the line that shares most with a question.

        The share is of all terms that one of both has: long lines do not win by their length.
        """
        asked = _terms(question) & self.weights.keys()
        total = self._weigh(asked)

        def likeness(line: str) -> float:
            shared = self._weigh(asked & self.terms[line])
            return shared / (total + self.totals[line] - shared) if shared else 0.0

        return max(self.terms, key=likeness)


def _terms(text: str) -> set[str]:
    """Return the words of a text, and the pairs of neighbours; of Chinese, characters' pairs."""
    words = _WORD.findall(text.lower())
    pairs = {f"{one} {two}" for one, two in zip(words, words[1:], strict=False)}
    return {word for word in words if word.isascii()} | pairs
