"""Short-context benchmarks: what longer context costs where it is not needed."""
