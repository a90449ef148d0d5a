"""The engine: an architecture specification becomes a model."""
