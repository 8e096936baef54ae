"""Billable quantities by local day, and the invoices made of them."""
