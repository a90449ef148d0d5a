"""Image files become what a model takes."""
