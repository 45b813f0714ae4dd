"""Training steps as one writes them by hand in PyTorch, for the same model, optimizer and strategies."""
