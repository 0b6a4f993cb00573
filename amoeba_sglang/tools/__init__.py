"""Commands of this repository's Makefile; not in the wheel."""
