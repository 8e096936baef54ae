"""Tests of the archive's modules."""
