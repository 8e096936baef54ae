"""Tests of the roll-ups, and the small helpers that what comes after them uses too."""
