"""Tests of the cold archive."""
