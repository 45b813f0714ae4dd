"""Text from a program that decodes: tokens of texts and texts of tokens, what is drawn, and the loop."""
