"""Prompts as token ids and answers as text: encoding, truncation, and where an answer ends."""
