"""Transient failures: a server cannot be reached, or fails itself. A refused request is not one of them."""

import httpx
import requests
from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException

from flows.failures.errors import TrackingError, is_full


def is_transient(error: object) -> bool:
    """Whether a retry may succeed."""
    if isinstance(error, BaseException) and is_full(error):
        return False
    if isinstance(error, MlflowException):
        return int(ERROR_CODE_TO_HTTP_STATUS.get(error.error_code, 500)) >= 500
    if isinstance(error, httpx.HTTPStatusError | requests.HTTPError) and error.response is not None:
        return error.response.status_code >= 500
    return isinstance(
        error, TrackingError | requests.RequestException | httpx.TransportError | ConnectionError | TimeoutError
    )
