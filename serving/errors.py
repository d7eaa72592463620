"""Errors with a message of one sentence for a client, and the HTTP status of the answer."""


class ServingError(Exception):
    """An error with a message for the client; any other exception is a fault of the server."""

    status = 500


class RequestError(ServingError, ValueError):
    """A request that cannot be answered; the message says what was given and what is expected."""

    status = 400

    def __init__(self, message: str, status: int = status) -> None:
        super().__init__(message)
        self.status = status


class UnknownModelError(ServingError, LookupError):
    """The registry answered that there is no such model, version or alias."""

    status = 404


class PolicyError(ServingError, ValueError):
    """A file is not a policy that this project can play; the message says what is wrong with it."""

    status = 503  # a version was refused; another one may be promoted


class RegistryUnavailableError(ServingError, RuntimeError):
    """The registry did not answer; only versions on the disk can be played."""

    status = 503


class NoPicturesError(ServingError, ValueError):
    """An environment can be played but not drawn; the message says why."""

    status = 501


class RecordingError(ServingError, RuntimeError):
    """A recording cannot be made; the message says what is missing."""

    status = 501
