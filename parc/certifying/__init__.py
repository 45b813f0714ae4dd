"""Certificates of plans, held to what they say: counted, bounded and priced once more, by no code of the search."""
