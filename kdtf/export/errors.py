"""The one error of this room."""


class ExportError(ValueError):
    """A model could not be exported, or the exported file failed a check.

    The message names the rule, what was found and the way out. No file is
    left behind, and an older file at the same path is untouched.
    """
