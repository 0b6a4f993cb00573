"""Control plane of a worker: its scheduler, the lock-step with its peers, transformations."""
