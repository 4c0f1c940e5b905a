"""What is wrong with a policy document."""


class Malformed(ValueError):
    """A document that is refused. The text says where, what was found, and what may stand there."""
