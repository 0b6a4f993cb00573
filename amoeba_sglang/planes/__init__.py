"""What computes and carries bytes for a worker, behind `contract`; takes no decision."""
