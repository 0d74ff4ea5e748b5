"""Requests for tests of the mock Learning Loop."""

import json
from dataclasses import asdict
from typing import Any

from learning_loop_node.data_classes import Context, ImageMetadata

from benchmarks.support.cards import FIGURES
from benchmarks.support.loops import MockLoopProcess
from detector.datasets.person import VISIBLE, Person
from detector.label_studio.backend.corrections import to_annotations
from detector.pose.skeleton import KEYPOINT_NAMES, PERSON

CONTEXT = Context(organization='zauberzeug', project='wholebody')


def metadata(**changes: Any) -> bytes:
    return json.dumps(asdict(ImageMetadata()) | changes).encode()


def send_images(loop: MockLoopProcess, files: dict[str, bytes]) -> Any:
    return loop.http.post(f'{loop.api}/images', files=[('files', (name, data)) for name, data in files.items()])


def corrected_card() -> bytes:
    """Return the metadata of a correction with the figures of the test card."""
    persons = [Person.empty() for _ in FIGURES]
    for person, figure in zip(persons, FIGURES, strict=True):
        person.keypoints[:], person.visibility[:] = figure.keypoints, VISIBLE
    ids = {name: name for name in (PERSON, *KEYPOINT_NAMES)}
    return json.dumps(asdict(to_annotations(persons, ids))).encode()
