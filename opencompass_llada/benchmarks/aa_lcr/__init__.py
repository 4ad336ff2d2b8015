"""AA-LCR: questions over several real documents, scored by a judge model."""
