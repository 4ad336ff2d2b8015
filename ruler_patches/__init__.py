"""RULER data set configs whose prompts end in the answer prefix."""
