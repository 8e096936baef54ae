"""From the queues into the stores: bounded drains that lose nothing, and the quarantine of what could not be taken."""
