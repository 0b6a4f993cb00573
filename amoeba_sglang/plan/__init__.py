"""What a transformation moves, in which order, and what it gains: pure, printable."""
