"""A simulated step to look at: Chrome trace events, and a page of hand-made SVG."""
