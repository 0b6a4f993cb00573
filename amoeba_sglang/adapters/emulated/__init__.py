"""A worker whose computation and copies only take time. Everything else of it is the real one."""
