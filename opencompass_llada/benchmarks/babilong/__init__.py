"""BABILong: bAbI's questions with their facts spread over books (arXiv 2406.10149)."""
