"""The one error class of this package."""


class InstaAugError(ValueError):
    """Bad input. The message names the argument, what came, what is allowed and what to do about it."""
