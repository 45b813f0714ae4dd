"""What a stack of software keeps in memory, beside or in place of our program's values."""
