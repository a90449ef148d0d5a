"""Weight files: found, downloaded, read and loaded into a model."""
