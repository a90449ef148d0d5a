"""Quantize trained models to int8."""
