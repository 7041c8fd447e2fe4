"""The description of the HTTP interface as a page, which needs no script and nothing of another site."""

import base64
import hashlib
import json
import re
from typing import Any

from starlette.responses import HTMLResponse

from facegm.data.pages import render_page


def reference(openapi: dict[str, Any]) -> HTMLResponse:
    """The page of an OpenAPI document.

    Args:
        openapi: the document, as FastAPI makes it.
    """
    operations = [
        {
            "method": method.upper(),
            "address": address,
            "summary": operation.get("summary", ""),
            "description": operation.get("description", ""),
            "fields": [*operation.get("parameters", []), *_form(operation, openapi)],
            "answers": operation["responses"],
            "example": _example(operation["responses"].get("200", {}), openapi),
        }
        for address, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    page = render_page("facegm.serving/reference.html.jinja", info=openapi["info"], operations=operations)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'"
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


def _form(operation: dict[str, Any], openapi: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields of an operation's form, as its other parameters are described."""
    if "requestBody" not in operation:
        return []
    schema = _resolved(operation["requestBody"]["content"]["multipart/form-data"]["schema"], openapi)
    return [
        {"name": name, "in": "form", "required": name in schema.get("required", []), **field}
        for name, field in schema["properties"].items()
    ]


def _example(answer: dict[str, Any], openapi: dict[str, Any]) -> str:
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    examples = _resolved(schema, openapi).get("examples", [])
    return json.dumps(examples[0], indent=2) if examples else ""


def _resolved(schema: dict[str, Any], openapi: dict[str, Any]) -> dict[str, Any]:
    found = schema
    for part in schema.get("$ref", "").split("/")[1:]:
        found = openapi[part] if found is schema else found[part]
    return found
