"""Real servers as child processes, their models and clients, and what is done to them: for tests
and benches."""
