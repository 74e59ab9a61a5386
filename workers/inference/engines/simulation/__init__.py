"""What the simulated engine says, worked out from a seed and the request; no I/O in here."""
