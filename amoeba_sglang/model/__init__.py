"""Data plane of a worker: what one joint step computes and where its KV lives."""
