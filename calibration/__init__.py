"""How the shipped profiles, length tables and measured figures were made; run from a checkout."""
