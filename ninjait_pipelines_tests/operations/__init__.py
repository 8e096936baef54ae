"""Tests of what the engineer on call uses."""
