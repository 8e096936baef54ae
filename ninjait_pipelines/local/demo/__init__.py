"""`make demo`: a fleet's day through every stage on the local stack, and a report that adds up. Not the product."""
