"""Models run by other means than plain PyTorch: engines, exported files and int8."""
