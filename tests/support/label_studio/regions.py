"""Regions as Label Studio's editor writes them, and persons to make regions of."""

from typing import Any

import numpy as np

from detector.datasets.person import Person
from detector.label_studio.labels.values import Region

SIZE = (640, 480)
"""Width and height of the image that the regions belong to."""


def make_persons(count: int, seed: int = 0) -> list[Person]:
    """Make persons anywhere in the image, with all visibilities."""
    rng = np.random.default_rng(seed)
    persons = []
    for _ in range(count):
        corner = rng.uniform(0, 300, 2)
        box = np.concatenate([corner, corner + rng.uniform(50, 150, 2)]).astype(np.float32)
        persons.append(
            Person(
                box=box,
                box_score=round(float(rng.uniform()), 4),
                keypoints=rng.uniform((0, 0), SIZE, (133, 2)).astype(np.float32),
                visibility=rng.integers(0, 3, 133).astype(np.int8),
                scores=rng.uniform(0, 1, 133).round(4).astype(np.float32),
            )
        )
    return persons


def keypoint_region(label: str, x: float, y: float, **more: Any) -> Region:
    value = {'x': x, 'y': y, 'width': 0.5, 'keypointlabels': [label]}
    size = {'original_width': 640, 'original_height': 480}
    return {'id': f'{label}{x}', 'from_name': 'kp', 'type': 'keypointlabels', 'value': value, **size, **more}


def box_region(name: str, x: float, y: float, width: float, height: float) -> Region:
    value = {'x': x, 'y': y, 'width': width, 'height': height, 'rectanglelabels': ['person']}
    return {'id': name, 'from_name': 'bbox', 'type': 'rectanglelabels', 'value': value}


def choice_region(region: Region, chosen: str) -> Region:
    """Return the choice for a region as the editor writes it."""
    value = {key: number for key, number in region['value'].items() if not key.endswith('labels')}
    return region | {'from_name': 'visibility', 'type': 'choices', 'value': value | {'choices': [chosen]}}


def drawn_skeleton(label: str, count: int, **more: Any) -> Region:
    """Return a skeleton as the editor writes it when an annotator draws it; the first click makes two vertices."""
    places = [(20 + index % 5, 20 + index // 5) for index in (0, *range(count))]
    vertices = [
        {'id': f'fJLKnxk9UUHn{number}', 'x': x, 'y': y, 'isBezier': False} for number, (x, y) in enumerate(places)
    ]
    value = {'vertices': vertices, 'closed': False, 'vectorlabels': [label]}
    return {'id': 'drawn', 'from_name': 'skeleton', 'type': 'vectorlabels', 'value': value, **more}
