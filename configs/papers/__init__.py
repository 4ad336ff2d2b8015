"""The two papers' own evaluations, one config each."""
