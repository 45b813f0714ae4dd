"""A program as one readable PyTorch file: `export_torch` in `file`."""
