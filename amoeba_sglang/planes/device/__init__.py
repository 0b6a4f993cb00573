"""What a worker computes on and copies with; `base.Device` is the contract."""
