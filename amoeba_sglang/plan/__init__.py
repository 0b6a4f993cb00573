"""What a transformation moves, in which order and with which memory: pure, printable."""
