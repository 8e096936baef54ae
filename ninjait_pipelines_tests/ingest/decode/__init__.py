"""Tests of the decoder. None of them uses a store."""
