"""Log lines: text on a terminal, JSON elsewhere."""

import logging
import sys
import time
from typing import Final

import msgspec

_STANDARD: Final = set(logging.makeLogRecord({}).__dict__) | {"message", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class TerminalFormatter(logging.Formatter):
    """A line for a person: the time of day, the message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        fields = (f"{name} {value}" for name, value in record.__dict__.items() if name not in _STANDARD)
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}  {record.getMessage()}"
        details = ", ".join(fields)
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return line + (f" ({details})" if details else "") + trace


def configure_logging(level: int = logging.INFO) -> None:
    """Send every log line to standard error: text on a terminal, JSON elsewhere."""
    handler = logging.StreamHandler()
    handler.setFormatter(TerminalFormatter() if sys.stderr.isatty() else JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("alembic", "mlflow.store.db"):
        logging.getLogger(name).setLevel(logging.WARNING)
