"""Perplexity through OpenCompass: texts, the windows of them that are scored, scores as results."""
