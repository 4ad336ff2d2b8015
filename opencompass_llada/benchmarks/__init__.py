"""Dataset and evaluator classes that OpenCompass lacks; each module is imported by its own name."""
