"""The other side of the queue: seeded organizations, a real agent, a simulated fleet. No stage imports it."""
