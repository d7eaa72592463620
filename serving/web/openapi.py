"""The document /openapi.json: OpenAPI 3.1 of all declared operations, without streams and the page."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.routing import BaseRoute, Route

from serving.web.answers import Error
from serving.web.operations import JSON, Operation, Resource

_PARAMETERS: Final = {
    "model": "the registered model's name",
    "version": "a version number or an alias",
    "file": "ID.json, .gif, .mp4, .webm or .html",
    "milestone": "number from 0",
}


def document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of the operations at these routes; a route without operations is left out."""
    components: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for item in routes:
        if isinstance(item, Route) and isinstance(item.endpoint, Resource):
            operations = item.endpoint.operations
            paths[item.path] = {each.method.lower(): _operation(each, components) for each in operations}
            if parameters := re.findall(r"{(\w+)}", item.path):
                paths[item.path]["parameters"] = [_parameter(name) for name in parameters]
    return {
        "openapi": "3.1.0",
        "info": {"title": "dqn-pipeline serving", "version": "0.1.0"},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(operation: Operation, components: dict[str, Any]) -> dict[str, Any]:
    def content(media: str, kind: Any) -> dict[str, Any]:
        if kind is None:
            return {media: {}}
        (schema,), more = msgspec.json.schema_components((kind,), ref_template="#/components/schemas/{name}")
        components.update(more)
        return {media: {"schema": schema}}

    status = operation.status
    responses = {
        str(status): {"description": HTTPStatus(status).phrase, "content": content(operation.media, operation.answer)}
    }
    for status in operation.errors:
        responses[str(status)] = {"description": "refused, with a sentence", "content": content(JSON, Error)}
    body = {"requestBody": {"content": content(JSON, operation.body)}} if operation.body else {}
    return {"summary": operation.summary, "responses": responses, **body}


def _parameter(name: str) -> dict[str, Any]:
    described = {"name": name, "in": "path", "description": _PARAMETERS[name]}
    return described | {"required": True, "schema": {"type": "string"}}
