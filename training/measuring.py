"""Measures ONNX files of person detectors with the node's own detector, beside each other."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from detector.engine.person_detector import PersonDetector
from detector.engine.runtimes import open_runtime
from detector.engine.thresholds import Thresholds
from detector.models.package import Detector as Spec

from .evaluation import SUPPRESSION, Detector, measured
from .grid import Array, Picture
from .photographs import Collection, Photograph, picture_in

THRESHOLDS: Final = (0.2, 0.3, 0.4, 0.5, 0.6)
"""Thresholds of the tables."""
LEAST: Final = 0.05
"""Score below which the detectors drop boxes, below all thresholds."""
RUNS: Final = 30
"""Runs of which the median time is given."""


def tables(files: Sequence[Path], photographs: Path, truth: Path | None) -> Iterator[str]:
    """Yield the lines of Markdown tables: persons found, boxes of no person, and time.

    :param files: ONNX files of YOLOX's raw form.
    :param photographs: folder of the photographs; only those held out of the training are measured.
    :param truth: COCO annotations of further photographs, which lie beside the file.
    """
    collection = Collection.of(photographs)
    groups = {source: annotated(collection, source) for source in collection.by_source}
    if truth:
        groups[truth.stem] = list(coco(truth))
    detectors = {path.name: opened(path) for path in files}
    for group, some in groups.items():
        if some:
            yield f'\n{group}, {len(some)} photographs\n'
            yield '| detector | threshold | persons found | large ones | false boxes | recall | large | precision |'
            yield '|---|---|---|---|---|---|---|---|'
            for name, detector in detectors.items():
                for threshold, one in measured(detector, some, THRESHOLDS).items():
                    found = f'{one.found} of {one.persons} | {one.found_large} of {one.large} | {one.false}'
                    shares = f'{one.recall:.2f} | {one.recall_large:.2f} | {one.precision:.2f}'
                    yield f'| {name} | {threshold} | {found} | {shares} |'
    yield ''
    for path in files:
        yield f'{path.name}: {milliseconds(path):.1f} ms of CPU'


def annotated(collection: Collection, source: str) -> list[Photograph]:
    return [one for one in collection.by_source[source] if one.held_out and one.boxes is not None]


def coco(annotations: Path) -> Iterator[Photograph]:
    """Yield the photographs of a COCO file with their persons and crowds."""
    listed = json.loads(annotations.read_text(encoding='utf-8'))
    for image in listed['images']:
        path = next(annotations.parent.glob(f'*{image["file_name"]}'))
        height, width = picture_in(path).shape[:2]
        rows = [
            [x / width, y / height, (x + across) / width, (y + down) / height, not one.get('iscrowd')]
            for one in listed['annotations']
            if one['image_id'] == image['id']
            for x, y, across, down in [one['bbox']]
        ]
        yield Photograph(path=path, name=path.name, boxes=np.array(rows, np.float32).reshape(-1, 5))


def opened(path: Path) -> Detector:
    """Return an ONNX file as the node runs it."""
    width, height = input_size(path)
    spec = Spec(file=path.name, sha256=64 * '0', input_size=(width, height), color_order='BGR', output='raw')
    thresholds = Thresholds(
        person=LEAST, person_from='the measurement', uncertain=(LEAST, 1.0), nms=SUPPRESSION, presence=0.0
    )
    detector = PersonDetector(open_runtime(path), spec, thresholds)
    detector.check()

    def detect(picture: Picture) -> tuple[Array, Array]:
        return detector.detect(np.ascontiguousarray(picture[..., ::-1]))

    return detect


def input_size(path: Path) -> tuple[int, int]:
    """Return the width and height of a network's input, in pixels."""
    *_, height, width = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    return width.dim_value, height.dim_value


def milliseconds(path: Path) -> float:
    """Return the median processor time of the network alone, in milliseconds."""
    width, height = input_size(path)
    runtime, batch, times = open_runtime(path), np.zeros((1, 3, height, width), np.float32), []
    for _ in range(RUNS):
        began = time.process_time()
        runtime.run(batch)
        times.append(time.process_time() - began)
    return 1000 * float(np.median(times))
