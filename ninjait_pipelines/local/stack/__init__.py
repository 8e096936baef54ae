"""The local stack: real engines from wheels, on loopback, for development, tests and the demo.

Here belongs how engines are started, checked and stopped. What is stored in them does not.
"""
