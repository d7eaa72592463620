"""The URIs of stores and artifacts: from a path, to a path, and without passwords for printing.

SQLAlchemy takes the path in a `sqlite:///` URI literally (`serving.models.glance.store_file`). MLflow percent-encodes
the path of its default store, and decodes paths of artifacts that are not encoded. For a directory with a name that
needs encoding, both are therefore given URIs that they cannot misread.
"""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

_SERVER: Final = re.compile(r"(postgresql(\+psycopg2?)?|(mysql|mariadb)(\+(pymysql|mysqldb))?)://")
_CONNECT_SECONDS: Final = 5
_USER: Final = re.compile(r"(?P<before>\w://[^/:@\s]*:)\S*@")
_TOKEN: Final = re.compile(r"(?P<before>https?://)[^/:@\s]+@")
_PARAMETER: Final = re.compile(r"(?P<before>[?&][^=&\s]*(?:pass|pwd|token|secret|key)[^=&\s]*=)[^&\s]+", re.IGNORECASE)
_NAMED: Final = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_UI_URL", "OPTUNA_STORAGE", "PREFECT_API_URL")
_MLRUNS: Final = "mlruns"


def sqlite_uri(file: str) -> str:
    """URI of a database file in the current directory; relative if the directory's name needs encoding."""
    path = str(Path(file).absolute())
    return f"sqlite:///{path if quote(path) == path else file}"


def connect_args(uri: str) -> dict[str, int]:
    """Arguments that make a database driver give up after seconds instead of minutes if a server does not answer."""
    return {"connect_timeout": _CONNECT_SECONDS} if _SERVER.match(uri) else {}


def artifact_location(name: str) -> str | None:
    """Where an embedded store keeps the artifacts of an experiment; None if MLflow's default needs no encoding."""
    root = Path(_MLRUNS).absolute()
    return None if quote(str(root)) == str(root) else f"{root.as_uri()}/{quote(name, safe='')}"


def local_path(uri: str) -> Path | None:
    """The path of artifacts on this machine; None if they are elsewhere."""
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path))
    return Path(unquote(uri)) if uri.startswith("/") else None


def without_login(uri: str) -> str:
    """A server's address for a link, without user and password: the browser asks for them."""
    return re.sub(r"^(https?://).*@", r"\1", uri, flags=re.DOTALL)


def redacted(text: str) -> str:
    """A URI, or a text with URIs in it, with `***` in place of every password and token."""
    for uri in filter(None, map(os.environ.get, _NAMED)):
        text = text.replace(uri, _redacted(uri, blanks=True))
    return _redacted(text)


def _redacted(text: str, *, blanks: bool = False) -> str:
    """As above; a password may contain blanks if the text is one URI."""
    if blanks:
        text = re.sub(r"^(\w[\w+.-]*://[^/:@]*:).*@", r"\1***@", text, flags=re.DOTALL)
    for pattern in (_USER, _TOKEN, _PARAMETER):
        text = pattern.sub(lambda match: f"{match['before']}***{'@' if match[0].endswith('@') else ''}", text)
    return text
