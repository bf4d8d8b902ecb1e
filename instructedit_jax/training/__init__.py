"""Meta-training: episodes, losses, the compiled step and the loop."""
