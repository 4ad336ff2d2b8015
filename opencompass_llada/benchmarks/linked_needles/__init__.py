"""Needles that share no word with the question, linked to it by other sentences of the text."""
