"""Changing state: what holds at the end of many changes, where the order decides."""
