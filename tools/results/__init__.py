"""The tables of docs/results.md, from bench/results: `python -m tools.results`."""
