"""Weights that rest in fewer bits."""
