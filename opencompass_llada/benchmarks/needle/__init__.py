"""Needle in a haystack on NeedleBench's data: one needle a sample."""
