"""Label Studio's JSON exports, made of labelled images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.datasets.labelled_image import LabelledImage
from detector.label_studio.labels.config import Style, generate, parse
from detector.label_studio.labels.regions import to_results

Json = dict[str, Any]
TIME = '2026-11-21T12:00:00.000000Z'


def make_task(image: LabelledImage, style: Style = 'skeleton', **fields: Any) -> Json:
    """Make a task with the image's id and one annotation with twice that id."""
    results = to_results(image.persons, parse(generate(style)), image.size)
    annotation = make_annotation(2 * image.id, results)
    uploaded = {'image': f'/data/upload/3/1a2b3c4d-{image.file_name}'}
    return {'id': image.id, 'project': 3, 'data': uploaded, 'annotations': [annotation], 'predictions': []} | fields


def make_annotation(annotation_id: int, results: Sequence[Json], **fields: Any) -> Json:
    known = {'id': annotation_id, 'completed_by': 7, 'was_cancelled': False, 'created_at': TIME, 'updated_at': TIME}
    return known | {'result': list(results)} | fields


def write_export(path: Path, tasks: Sequence[Json]) -> Path:
    path.write_text(json.dumps(tasks), encoding='utf-8')
    return path
