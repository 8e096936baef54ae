"""Messages as points: the contract of each queue, and what other agents than ours send."""
