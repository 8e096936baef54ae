"""What comes after ingest, measured: one module per kind of work, each with `measure(rounds) -> list[Figure]`."""

# In the order in which they are measured and listed.
MODULES = ["rollup", "reading", "copies", "billing", "documents", "questions", "archive", "processes", "cache"]
