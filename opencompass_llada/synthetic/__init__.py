"""Generates English text and needles, deterministic under a seed and free of dependencies.

It is not natural language: figures on it say what a mechanism does, not how well a model reads.
"""
