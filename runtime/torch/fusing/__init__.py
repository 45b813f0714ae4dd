"""Parts of a program that PyTorch has one kernel for, as one op, in both passes: norms, attention, losses, updates."""
