"""Dragonfly, warmed: what the platform's API reads without asking a database."""
