"""InfiniteBench: twelve tasks on texts of 100,000 tokens and more."""
