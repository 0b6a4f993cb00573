"""Commands of this repository's Makefile and of its maintainers; no part of the package."""
