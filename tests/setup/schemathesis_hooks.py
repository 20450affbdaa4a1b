"""Gives schemathesis what it cannot make by itself: a component that is one."""

import os
from pathlib import Path

import schemathesis
from hypothesis import strategies

COMPONENT = Path(os.environ["SLUICEGATE_COMPONENT"]).read_bytes()

schemathesis.openapi.media_type("application/wasm", strategies.just(COMPONENT))


@schemathesis.serializer("application/wasm")
def component(_context, value):
    return value if isinstance(value, bytes) else str(value).encode()
