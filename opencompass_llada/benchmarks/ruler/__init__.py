"""Generates and scores RULER's 13 tasks (arXiv 2404.06654).

From 4,096 tokens on prompts are those of OpenCompass's own classes, byte for byte; they are made
without its word list of 6 million entries and with a tenth of the tokenizing, and cached on disk.
"""
