"""Kernels of PyTorch, a module per family of ops; `@kernel(Op)` registers each. All are imported with the backend."""
