"""What must hold on the REFERENCE device, on real servers: python -m bench.reference."""
