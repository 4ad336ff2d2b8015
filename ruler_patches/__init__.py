"""RULER data set configs: base-model prompts that end in the answer prefix, and group tables."""
