"""Requests for tests of the mock Learning Loop."""

import json
from dataclasses import asdict
from typing import Any

from learning_loop_node.data_classes import Context, ImageMetadata

from benchmarks.support.loops import MockLoopProcess

CONTEXT = Context(organization='zauberzeug', project='wholebody')


def metadata(**changes: Any) -> bytes:
    return json.dumps(asdict(ImageMetadata()) | changes).encode()


def send_images(loop: MockLoopProcess, files: dict[str, bytes]) -> Any:
    return loop.http.post(f'{loop.api}/images', files=[('files', (name, data)) for name, data in files.items()])
