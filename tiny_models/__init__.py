"""Rows and recipes that only the shipped tiny models need (docs/tiny_models.md)."""
