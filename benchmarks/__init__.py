"""Programs that measure, side by side with plain PyTorch."""
