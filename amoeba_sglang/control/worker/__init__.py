"""What a worker decides: its states, what it tells its peers in a step, when it meets them."""
