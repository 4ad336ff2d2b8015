"""What tells the cells of the study of post-training apart; needs no torch."""

TRAINED = 512  # tokens that tiny-llada was trained at
#: Scalings that a checkpoint can hold, in the order that they are printed in.
SCALINGS = ("none", "ntk", "diffusion_ntk")
GRID = ("scaling", "strategy", "method", "factor", "seed")
VARIANT = ("planned_tokens", "learning_rate")
