"""A tracking store that fails when it is told to."""

from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR


class Breaking:
    """A client that fails in its n-th write."""

    def __init__(self, client: MlflowClient, nth: int) -> None:
        self._client = client
        self.left = nth

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not name.startswith(("log_", "set_", "create_", "update_", "delete_")):
            return method

        def write(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise MlflowException("the store is away", INTERNAL_ERROR)
            return method(*arguments, **named)

        return write
