"""What tells the cells of the study of post-training apart; needs no torch."""

TRAINED = 512  # tokens that tiny-llada was trained at
GRID = ("scaling", "strategy", "method", "factor", "seed")
VARIANT = ("planned_tokens", "learning_rate")
