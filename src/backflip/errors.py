"""What a person can mend."""


class Mendable(Exception):
    """Something that a person can mend; the message is one sentence that says what was wrong and what to do.

    The command line prints the sentence alone and exits with 2, wherever in a run it was raised.
    """
