"""Fleets: adapters over replicas, their traffic as it changes, and what to do about it."""
