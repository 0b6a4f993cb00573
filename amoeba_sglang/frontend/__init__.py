"""The HTTP process: admin routes, early rejection, and an end that no client waits for."""
