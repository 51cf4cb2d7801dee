"""Placement: adapters on replicas, with a lower bound and a check (docs/background/placement.md)."""
