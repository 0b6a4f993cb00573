"""Memory pages that change hands between weights and KV."""
