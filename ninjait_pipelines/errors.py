"""The error that every part of the package may raise for a person to read."""


class UserError(Exception):
    """An error whose message tells a person what to do: commands print it instead of a traceback."""
