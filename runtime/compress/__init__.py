"""From weights to fewer bits: rounding, alone or by what the layers' inputs are, and checkpoints of the result."""
