"""The one error that users meet: a single line that says what is wrong and what to do."""


class GantryError(Exception):
    """Bad input or a circumstance the user can mend; the message is one clear line.

    The command line prints the message without a traceback and exits with status 1.
    """
