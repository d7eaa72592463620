import os
import sys
from types import TracebackType


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """End a measurement that was interrupted without a traceback; what it began has been cleaned up by now."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    sys.stdout.flush()
    sys.stderr.write("interrupted: nothing was written\n")
    sys.stderr.flush()
    os._exit(130)


if sys.argv[0] == "-m":  # the package is imported to run one of its modules, which is before those they import
    sys.excepthook = _end
