"""Service desk analytics: ticket history, tickets as they stood at each day's end, technicians' figures."""
