"""Reads prompts as token ids and answers as text, shortens the one and ends the other."""
