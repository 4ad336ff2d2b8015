"""Rows and recipes that only the shipped tiny models need (docs/explanation/tiny_models.md)."""
