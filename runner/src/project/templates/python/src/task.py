"""What the task does: bytes in, bytes out."""

import json

from wit_world.imports import host
from wit_world.imports.types import Context, Output

from wasmqtt import Reject


def run(context: Context, data: bytes) -> Output:
    try:
        name = json.loads(data)["name"]
    except (ValueError, KeyError, TypeError) as why:
        raise Reject(f'the input is not {{"name": "…"}}: {why}')
    host.log(host.Level.INFO, f"a greeting for task {context.id}")
    return Output(json.dumps({"greeting": f"hello, {name}"}).encode(), "application/json")
