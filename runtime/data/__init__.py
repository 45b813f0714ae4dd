"""Readers: where batches come from. All are deterministic: the same seed and step give the same batch."""
