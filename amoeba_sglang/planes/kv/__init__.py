"""The KV pool's data: units moved between degrees."""
