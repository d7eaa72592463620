"""What /openapi.json says."""

from typing import Any, Final

from serving.episodes.physics import MAX_PUSHES, MAX_SEED, MAX_STEPS
from serving.inference.protocol import MAX_BATCH

_ERROR: Final = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_TENSOR: Final = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
_INFER: Final = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {
            "type": "array",
            "items": {**_TENSOR, "required": ["name", "shape", "datatype", "data"]},
            "minItems": 1,
            "maxItems": 1,
            "description": f"one tensor 'observation', FP32, [batch, obs], batch at most {MAX_BATCH}",
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"enum": ["q_values", "action"]}, "parameters": {"type": "object"}},
            },
        },
    },
}
_PHYSICS: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "length": {"type": "number", "minimum": 0.1, "maximum": 2},
        "masspole": {"type": "number", "minimum": 0.01, "maximum": 2},
        "gravity": {"type": "number", "minimum": 0, "maximum": 30},
        "force_mag": {"type": "number", "minimum": 1, "maximum": 50},
    },
}
_STEP: Final = {"type": "integer", "minimum": 0, "maximum": MAX_STEPS - 1}
_EPISODE: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "seed": {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
        "version": {"type": ["string", "integer", "null"]},
        "pushes": {
            "type": "array",
            "maxItems": MAX_PUSHES,
            "items": {
                "type": "object",
                "required": ["step", "force"],
                "additionalProperties": False,
                "properties": {
                    "step": _STEP,
                    "force": {"type": "number", "minimum": -200, "maximum": 200},
                },
            },
        },
        "physics": _PHYSICS,
        "changes": {
            "type": "array",
            "maxItems": MAX_PUSHES,
            "items": {
                "type": "object",
                "required": ["step", "physics"],
                "additionalProperties": False,
                "properties": {"step": _STEP, "physics": _PHYSICS},
            },
        },
    },
}


def document(model: str, *, show: bool) -> dict[str, Any]:
    """OpenAPI 3.1 of every route a program may call; streams are described, not modelled."""
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "default": model}}
    version = {
        "name": "version",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "a version number or an alias",
    }
    file = {"name": "file", "in": "path", "required": True, "schema": {"type": "string"}}
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("Server metadata")},
        "/v2/health/live": {"get": _operation("Liveness")},
        "/v2/health/ready": {"get": _operation("Readiness", 503)},
        "/v2/repository/index": {"post": _operation("Known versions", 400, body={"type": "object"}, answer="array")},
        "/v2/models/stats": {"get": _operation("Statistics of every version")},
        "/api/status": {"get": _operation("What plays")},
        "/api/frame.png": {"get": _operation("This step, by Gymnasium", 503, media="image/png")},
        "/api/episodes": {
            "get": _operation("Kept replays", answer="array"),
            "post": _operation("Play an episode", 400, 401, 404, 503, body=_EPISODE, success="201"),
        },
        "/api/episodes/{file}": {
            "parameters": [file],
            "get": _operation("A replay as ID.json, .gif, .mp4, .webm or .html", 404, 501, media="*/*"),
        },
        "/metrics": {"get": _operation("Prometheus metrics", media="text/plain")},
    }
    for prefix, parameters in (("", [name]), ("/versions/{version}", [name, version])):
        path = "/v2/models/{model}" + prefix
        paths[path] = {"parameters": parameters, "get": _operation("Model metadata", 404, 503)}
        paths[f"{path}/ready"] = {"parameters": parameters, "get": _operation("Model readiness", 404, 503)}
        paths[f"{path}/config"] = {"parameters": parameters, "get": _operation("Model configuration", 404, 503)}
        paths[f"{path}/stats"] = {"parameters": parameters, "get": _operation("Statistics", 404, 503)}
        infer = _operation("Inference (Open Inference Protocol v2)", 400, 404, 408, 413, 415, 503, body=_INFER)
        paths[f"{path}/infer"] = {"parameters": parameters, "post": infer}
    if not show:
        del paths["/api/frame.png"], paths["/api/episodes/{file}"]
        play = _operation("Play an episode; answers the replay", 400, 401, 404, 503, body=_EPISODE)
        paths["/api/episodes"] = {"post": play}
    return {
        "openapi": "3.1.0",
        "info": {"title": "dqn-pipeline serving", "version": "0.1.0"},
        "paths": paths,
    }


def _operation(
    summary: str,
    *errors: int,
    body: dict[str, Any] | None = None,
    answer: str = "object",
    media: str = "application/json",
    success: str = "200",
) -> dict[str, Any]:
    schema = {"type": answer} if media == "application/json" else {}
    responses = {success: {"description": "success", "content": {media: {"schema": schema}}}}
    for status in errors:
        content = {"application/json": {"schema": _ERROR}}
        responses[str(status)] = {"description": "refused, with a sentence", "content": content}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if body:
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return operation
