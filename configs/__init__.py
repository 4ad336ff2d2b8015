"""Evaluation configs that users run, and the parts that they read with `read_base`."""
