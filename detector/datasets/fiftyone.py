"""Write datasets for FiftyOne.

`fo.Dataset.from_dir(folder, dataset_type=fo.types.FiftyOneDataset)` loads them. Samples have the fields `detections`
and `keypoints`; the `Detection` and the `Keypoint` of a person have the same `index`, counted from 1 in each image. A
`Keypoint` has 133 points, nan where a point is not labelled, and the attribute `visibility` (0, 1, 2); if a model
predicted points, it also has `confidence`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from detector.pose.skeleton import DRAWN_EDGES, KEYPOINT_NAMES, PERSON

from .labelled_image import LabelledImage, box_of, check_ids, file_names, new_folder, split_of, writable, write_images
from .omissions import Omissions
from .person import NOT_LABELLED, Person, Size

_VERSION: Final = '0.25.0'
"""Version of FiftyOne whose format is written; later versions migrate it."""
_NAN: Final = {'$numberDouble': 'NaN'}
_DIGITS: Final = 8

JsonObject = dict[str, Any]


def write_fiftyone(
    folder: Path,
    images: Sequence[LabelledImage],
    omissions: Omissions | None = None,
    *,
    val_share: float | None = None,
    image_bytes: Callable[[LabelledImage], bytes] | None = None,
) -> list[LabelledImage]:
    """Write a dataset that FiftyOne loads, and return the images with the persons that it contains.

    Equal input gives equal files. Empty persons are left out.

    :param folder: created if missing; must be empty.
    :param omissions: receives what is left out; None: raise it.
    :param val_share: share of the images that get the tag `val`, 0..1; the others get `train`; None: no tags.
    :param image_bytes: returns the image file to write below `data/`; None: FiftyOne finds the images below `data/` of
        its argument `rel_dir`.
    :raises InvalidRequest: the folder is not empty or cannot be created, or two images have the same id.
    """
    check_ids(images)
    new_folder(folder)
    report = omissions or Omissions()
    written = writable(images, report)
    names = file_names(written)
    samples = [_sample(image, f'data/{name}', val_share) for image, name in zip(written, names, strict=True)]
    (folder / 'samples.json').write_text(json.dumps({'samples': samples}, allow_nan=False), encoding='utf-8')
    (folder / 'metadata.json').write_text(json.dumps(_metadata(folder.name), indent=1), encoding='utf-8')
    if image_bytes is not None:
        write_images(zip(written, (folder / 'data' / name for name in names), strict=True), image_bytes, report)
    return written


def _sample(image: LabelledImage, path: str, val_share: float | None) -> JsonObject:
    detections, keypoints = [], []
    for index, person in enumerate(image.persons, 1):
        corners = box_of(person, image.size)
        assert corners is not None
        (x1, y1), (x2, y2) = (_relative(corner, image.size) for corner in corners.reshape(2, 2).tolist())
        size = [round(x2 - x1, _DIGITS), round(y2 - y1, _DIGITS)]
        score = {} if person.box_score is None else {'confidence': person.box_score}
        detections.append(_label('Detection', path, index) | {'bounding_box': [x1, y1, *size]} | score)
        if person.visibility.any():
            keypoints.append(_label('Keypoint', path, index) | _points(person, image.size))
    return {
        '_id': _object_id('sample', path),
        '_media_type': 'image',
        '_rand': int(hashlib.sha256(path.encode()).hexdigest()[:8], 16) / 2**32,
        'filepath': path,
        'tags': [] if val_share is None else [split_of(image.file_name, val_share)],
        'metadata': {'_cls': 'ImageMetadata', 'width': image.width, 'height': image.height},
        'image_id': image.id,
        'file_name': image.file_name,
        'detections': {'_cls': 'Detections', 'detections': detections},
        'keypoints': {'_cls': 'Keypoints', 'keypoints': keypoints},
    }


def _label(kind: str, path: str, index: int) -> JsonObject:
    return {
        '_id': _object_id(kind, path, str(index)),
        '_cls': kind,
        'attributes': {},
        'tags': [],
        'label': PERSON,
        'index': index,
    }


def _object_id(*parts: str) -> JsonObject:
    # FiftyOne shows the first four bytes as the time of creation; zeros keep equal input equal
    return {'$oid': '00000000' + hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]}


def _points(person: Person, size: Size) -> JsonObject:
    visibility = person.visibility.tolist()
    places = [_relative(place, size) for place in person.keypoints.tolist()]
    points = [[_NAN, _NAN] if v == NOT_LABELLED else place for v, place in zip(visibility, places, strict=True)]
    scores = [float(score) for score in person.scores]
    if all(math.isnan(score) for score in scores):
        return {'points': points, 'visibility': visibility}
    confidence = [round(score, _DIGITS) if math.isfinite(score) else _NAN for score in scores]
    return {'points': points, 'visibility': visibility, 'confidence': confidence}


def _relative(place: Sequence[float], size: Size) -> list[float]:
    return [round(coordinate / side, _DIGITS) for coordinate, side in zip(place, size, strict=True)]


def _metadata(name: str) -> JsonObject:
    skeleton = {'labels': list(KEYPOINT_NAMES), 'edges': [list(edge) for edge in DRAWN_EDGES]}
    return {
        'name': name,
        'version': _VERSION,
        'media_type': 'image',
        'persistent': False,
        'tags': [],
        'info': {},
        'app_config': {},
        'classes': {},
        'default_classes': [PERSON],
        'mask_targets': {},
        'default_mask_targets': {},
        'skeletons': {'keypoints': skeleton},
        'default_skeleton': skeleton,
        'sample_fields': _schema(),
    }


def _schema() -> list[JsonObject]:
    floats, integers = {'subfield': 'fiftyone.core.fields.FloatField'}, {'subfield': 'fiftyone.core.fields.IntField'}
    texts = {'subfield': 'fiftyone.core.fields.StringField'}
    attributes = {
        'embedded_doc_type': 'fiftyone.core.labels.Attribute',
        'subfield': 'fiftyone.core.fields.EmbeddedDocumentField',
    }
    label = [
        _field('id', 'ObjectId', db_field='_id'),
        _field('tags', 'List', **texts),
        _field('attributes', 'Dict', **attributes),
        _field('label', 'String'),
        _field('index', 'Int'),
    ]
    detection = [*label, _field('bounding_box', 'List', **floats), _field('confidence', 'Float')]
    keypoint = [
        *label,
        _field('points', 'Keypoints'),
        _field('confidence', 'List', **floats),
        _field('visibility', 'List', **integers),
    ]
    return [
        _field('id', 'ObjectId', db_field='_id'),
        _field('filepath', 'String'),
        _field('tags', 'List', **texts),
        _field(
            'metadata',
            'EmbeddedDocument',
            embedded_doc_type='fiftyone.core.metadata.ImageMetadata',
            fields=[_field('width', 'Int'), _field('height', 'Int')],
        ),
        _field('_media_type', 'String'),
        _field('_rand', 'Float'),
        _field('image_id', 'Int'),
        _field('file_name', 'String'),
        _labels('detections', 'Detection', detection),
        _labels('keypoints', 'Keypoint', keypoint),
    ]


def _labels(name: str, kind: str, fields: list[JsonObject]) -> JsonObject:
    items = {
        'embedded_doc_type': f'fiftyone.core.labels.{kind}',
        'subfield': 'fiftyone.core.fields.EmbeddedDocumentField',
    }
    return _field(
        name,
        'EmbeddedDocument',
        embedded_doc_type=f'fiftyone.core.labels.{kind}s',
        fields=[_field(name, 'List', **items, fields=fields)],
    )


def _field(name: str, kind: str, **more: Any) -> JsonObject:
    return {
        'name': name,
        'ftype': f'fiftyone.core.fields.{kind}Field',
        'embedded_doc_type': None,
        'subfield': None,
        'fields': [],
        'db_field': name,
        'description': None,
        'info': None,
    } | more
