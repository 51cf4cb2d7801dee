"""Many servers: which adapters go on which."""
