"""Generates English text and needles.

Deterministic under a seed and free of dependencies, so that evaluation and training work on a
machine without any data set. It is not natural language: figures on it say what a mechanism does,
not how well a model reads.
"""

from opencompass_llada.synthetic.grammar import generate_documents
from opencompass_llada.synthetic.needles import Needle, generate_needles

__all__ = ["Needle", "generate_documents", "generate_needles"]
