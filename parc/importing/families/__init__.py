"""One family of published models in each file: what its configuration says, and what its weights are called."""
