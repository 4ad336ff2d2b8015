"""What is made of a run's result files: which are missing, tables, figures, summaries."""
