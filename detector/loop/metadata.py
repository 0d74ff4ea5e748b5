"""The Learning Loop's metadata of an image: made from poses, and read from uploads.

Person i is `box_detections[i]`; `point_detections[133 * i : 133 * i + 133]` are that person's points in schema order.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final

import numpy as np
from learning_loop_node.data_classes import BoxDetection, ImageMetadata, ModelInformation, PointDetection
from pydantic import TypeAdapter, ValidationError

from detector.errors import InvalidRequest
from detector.models.package import ModelPackage
from detector.pose.names import canonical_name
from detector.pose.pose import Pose
from detector.pose.skeleton import KEYPOINT_NAMES, PERSON

_ADAPTER: Final = TypeAdapter(ImageMetadata)
_LISTS: Final = (
    'box_detections', 'point_detections', 'segmentation_detections', 'classification_detections',
    'box_annotations', 'point_annotations',
)  # fmt: skip
_MAX_COORDINATE: Final = 1_000_000
"""Limit for coordinates, in pixels; no image is that large."""
_SHOWN: Final = 5
"""Number of unknown categories that an error lists."""


def to_metadata(poses: Sequence[Pose], package: ModelPackage) -> ImageMetadata:
    """Convert poses to the Loop's form: boxes in whole pixels, points rounded to 0.01 pixels.

    :param package: the model that found the poses; provides category ids and version.
    """
    metadata = ImageMetadata()
    ids, version = package.category_ids, package.reported_version
    for pose in poses:
        x1, y1, x2, y2 = np.round(pose.box).astype(int).tolist()
        metadata.box_detections.append(
            BoxDetection(
                category_name=PERSON,
                category_id=ids[PERSON],
                x=x1,
                y=y1,
                width=x2 - x1,
                height=y2 - y1,
                model_name=version,
                confidence=round(pose.box_confidence, 4),
            )
        )
        points = np.round(pose.keypoints.astype(np.float64), 2).tolist()
        confidences = np.round(pose.confidences.astype(np.float64), 4).tolist()
        metadata.point_detections.extend(
            PointDetection(
                category_name=name, category_id=ids[name], x=x, y=y, model_name=version, confidence=confidence
            )
            for name, (x, y), confidence in zip(KEYPOINT_NAMES, points, confidences, strict=True)
        )
    return metadata


def parse(payload: object) -> ImageMetadata:
    """Read the metadata of an upload.

    `creation_date`, which rosys sends, stands for `created`. Fractions of pixels in boxes are rounded.

    :param payload: object in the form of ImageMetadata; None for no metadata.
    :raises InvalidRequest: the metadata is malformed; the error names the field and the reason.
    """
    if payload is None:
        return ImageMetadata()
    if not isinstance(payload, Mapping):
        raise InvalidRequest(f"'metadata' must be an object, not {type(payload).__name__}")
    content = dict(payload)
    creation_date = content.pop('creation_date', None)
    if creation_date is not None:
        content['created'] = content.get('created') or creation_date
    for name in ('box_detections', 'box_annotations'):
        if isinstance(content.get(name), list):
            content[name] = [_in_whole_pixels(box) for box in content[name]]
    try:
        metadata = _ADAPTER.validate_python(content)
        check_text(json.dumps(asdict(metadata), allow_nan=False, ensure_ascii=False))
        located: list[BoxDetection | PointDetection] = [*metadata.box_detections, *metadata.point_detections]
        for item in located:
            if abs(value := max(item.x, item.y, key=abs)) > _MAX_COORDINATE:
                raise InvalidRequest(
                    f"'metadata': {item.category_name}: the coordinate {value:.10g} exceeds ±{_MAX_COORDINATE} pixels"
                )
    except ValidationError as error:
        problem = error.errors()[0]
        field = '.'.join(str(part) for part in problem['loc'])
        raise InvalidRequest(f"'metadata' is malformed: {field}: {problem['msg']}") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise InvalidRequest(f"'metadata' is malformed: {error}") from None
    if metadata.created is not None:
        check_date(metadata.created)
    return metadata


def _in_whole_pixels(box: object) -> object:
    if not isinstance(box, Mapping):
        return box
    sides = {
        name: round(box[name])
        for name in ('x', 'y', 'width', 'height')
        if isinstance(box.get(name), float) and np.isfinite(box[name])
    }
    return {**box, **sides}


def check_text(text: str) -> str:
    """Return the text if it can be encoded.

    :raises InvalidRequest: the text has half a surrogate pair, which broken JSON encoders produce.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest('a text is not valid Unicode: it has half a surrogate pair') from None
    return text


def check_date(text: str) -> str:
    """Return the creation date if the Loop can read it.

    :raises InvalidRequest: the date is not ISO 8601.
    """
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f'the creation date {text[:40]!r} is not ISO 8601; send one such as 2026-01-31T12:00:00'
        ) from None
    return text


def add_category_ids(metadata: ImageMetadata, package: ModelPackage, model_info: ModelInformation) -> None:
    """Set the category ids of all detections and annotations, and replace aliases of keypoints by their names.

    A category that the model does not know keeps the id that the client sent.

    :raises InvalidRequest: the model does not know some categories, and they have no id.
    """
    others = {category.name: category.id for category in model_info.categories}
    unknown = set()
    items = [item for name in _LISTS for item in getattr(metadata, name)]
    if metadata.classification_annotation is not None:
        items.append(metadata.classification_annotation)
    for item in items:
        name = canonical_name(item.category_name) or item.category_name
        known = package.category_ids.get(name) or others.get(name)
        if known is not None:
            item.category_name, item.category_id = name, known
        elif not item.category_id:
            unknown.add(item.category_name)
    if unknown:
        more = f' and {len(unknown) - _SHOWN} more' if len(unknown) > _SHOWN else ''
        raise InvalidRequest(
            f'model {package.model_version} knows no category {", ".join(map(repr, sorted(unknown)[:_SHOWN]))}{more}; '
            'send their category_id too, or leave them out'
        )
