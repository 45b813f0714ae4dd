"""Parts of a program that PyTorch has one kernel for, as one op: both passes of norms, attention, losses, activations."""
