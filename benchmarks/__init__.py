import os
import sys
from types import TracebackType


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """End an interrupted measurement without a traceback. Its `finally` blocks have run by now."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    sys.stdout.flush()
    sys.stderr.write("interrupted: nothing was written\n")
    sys.stderr.flush()
    os._exit(130)


if sys.argv[0] == "-m":  # one of the package's modules is being run, not imported
    sys.excepthook = _end
