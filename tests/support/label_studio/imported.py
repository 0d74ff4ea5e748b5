"""Labelled images and their tasks."""

from typing import Any

from detector.datasets.labelled_image import LabelledImage
from tests.support.people import make_image


def image(number: int, name: str) -> LabelledImage:
    return make_image(0, number, file_name=name)


def task(number: int, address: str, **meta: Any) -> dict[str, Any]:
    return {'id': number, 'data': {'image': address}, 'meta': meta}
