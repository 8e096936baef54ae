"""What is not the product: engines on this machine, a fleet to feed them, the demo. No product module imports it."""
