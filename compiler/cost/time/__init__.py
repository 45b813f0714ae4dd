"""How work follows each other, and the time line of a step."""
