"""Layouts of all values: what rules say, what follows, where layouts change. `place.place` is the pass."""
