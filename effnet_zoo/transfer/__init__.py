"""Weights between layouts and repositories: opened, converted, proved, published and verified."""
