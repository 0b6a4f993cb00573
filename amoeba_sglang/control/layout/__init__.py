"""Where things are at each degree: slots, shards, weight pages, and how much memory that takes."""
