"""Mistakes of users."""


class UserError(Exception):
    """A mistake of the user; the message is one clear sentence that says what would be accepted."""
