"""This machine: its ports, cores, processes and files."""
