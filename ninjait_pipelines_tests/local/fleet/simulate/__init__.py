"""The simulator's tests, module by module."""
