"""Many servers: behind a router, placed by a plan, following a forecast."""
