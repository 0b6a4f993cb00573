"""Address ranges and physical pages, kept apart: pages move between uses and are read by peers."""
