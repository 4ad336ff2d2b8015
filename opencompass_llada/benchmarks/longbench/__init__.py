"""LongBench, LongBench-E and LongBench v2: reading, prompts, metrics, evaluators."""
