"""Every device by itself, with its own copies, and messages between devices.

Slow, and obviously right: what the stacked executor must agree with. `interpreter.py` runs one device; it computes
through a `Backend` and knows the others only through a `Network`, so the same code runs on a real engine.
"""
