"""Tests, in the package's own layout, against real engines."""
