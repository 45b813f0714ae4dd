"""What a lowered program costs in time."""
