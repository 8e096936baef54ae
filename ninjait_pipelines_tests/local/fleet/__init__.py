"""Tests of the fleet: seed, agent, simulator."""
