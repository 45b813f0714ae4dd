"""The search for strategies: what there is to choose, what each takes at least, what the best take, and the proof."""
