"""L-Eval: twenty tasks on documents of 3,000 to 200,000 tokens."""
