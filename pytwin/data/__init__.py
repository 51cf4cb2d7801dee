"""Data that ships with the package: dated aggregate figures of measured runs."""
