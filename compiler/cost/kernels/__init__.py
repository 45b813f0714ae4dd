"""What a program asks of a machine: kernels, messages and loops, in sizes."""
