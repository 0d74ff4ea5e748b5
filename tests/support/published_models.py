"""A catalogue of published models on local servers, with the networks of the test card."""

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mock.test_card.model import build_detector, build_estimator

from .file_server import FileServer, serving


def published(content: bytes, *, padding: int = 0) -> bytes:
    """Return a zip as mmdeploy publishes it: the network lies in a folder beside other files.

    :param padding: size of another file in bytes, for a longer download.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('model_sdk/pipeline.json', '{}')
        archive.writestr('model_sdk/padding', bytes(padding))
        archive.writestr('model_sdk/end2end.onnx', content)
    return buffer.getvalue()


@contextmanager
def published_networks() -> Iterator[tuple[FileServer, FileServer]]:
    """Serve a detector and an estimator, each on its own server."""
    with (
        serving(published(build_detector().SerializeToString())) as detector,
        serving(published(build_estimator().SerializeToString())) as estimator,
    ):
        yield detector, estimator


def catalogue_of(
    folder: Path,
    servers: tuple[FileServer, FileServer],
    *,
    entries: dict[str, dict[str, Any]] | None = None,
    estimator: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a catalogue of models that consist of the files of the two servers.

    :param entries: fields by name of the model; by default there is one model `lightweight`.
    :param estimator: fields of the estimators.
    :param changes: fields of the detectors.
    """
    det, pose = (server.url for server in servers)
    model = {
        'description': 'test',
        'detector': {'urls': [det.replace('model', 'det')], 'input_size': [640, 640], 'color_order': 'BGR'},
        'estimator': {'urls': [pose.replace('model', 'pose')], 'input_size': [192, 256], 'color_order': 'RGB'},
    }
    model['detector'] |= changes  # type: ignore[operator]
    model['estimator'] |= estimator or {}  # type: ignore[operator]
    path = folder / 'catalogue.json'
    models = {mode: model | fields for mode, fields in (entries or {'lightweight': {}}).items()}
    path.write_text(json.dumps(models))
    return path
