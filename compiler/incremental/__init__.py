"""The program of the next positions of a model that is causal along a dim, derived from its forward pass."""
