"""The one exception that the command line turns into a message instead of a traceback."""


class PipelineError(Exception):
    """A mistake that the reader of the message can mend.

    The message names the file, the key or the row, what was found, what was expected, and what to do next.
    `pipeline.cli` prints it to standard error and exits with status 1; `--debug` shows the traceback as well.
    """
