"""Kernels, the serial interpreter, the emulators and the equality check (parses no `.par`)."""
