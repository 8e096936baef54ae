"""Tests of the quarantine, a file per module."""
