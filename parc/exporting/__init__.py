"""Programs written for other systems: text only, nothing is run and nothing of those systems is imported."""
