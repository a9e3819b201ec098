"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can put right.

    The commands print its message as one line and exit with code 2; every other exception
    is a bug and keeps its traceback.
    """
