"""The KV pool's data: units moved between degrees, and the audit of who owns which slot."""
