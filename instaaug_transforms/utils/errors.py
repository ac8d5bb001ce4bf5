"""The one error class of this package, and what others say."""


class InstaAugError(ValueError):
    """Bad input. The message names the argument, what came, what is allowed and what to do about it."""


def reason(error: BaseException) -> str:
    """The first line of another library's message; the kind of error where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
