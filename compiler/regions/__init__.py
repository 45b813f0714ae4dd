"""Parts of a program that systems compute as one: found once, by what flows where, and marked for whoever asks."""
