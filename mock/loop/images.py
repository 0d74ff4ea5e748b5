"""Images that a mock Learning Loop receives: pairs of JPEG and metadata, and pictures with skeletons."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NoReturn
from urllib.parse import unquote

from PIL import Image as PillowImage
from pydantic import BaseModel, ConfigDict, StrictFloat, StrictInt, StrictStr, ValidationError

from detector.pose import images, overlay
from detector.pose.pose import poses_from_metadata

from .errors import LoopError


class _Lenient(BaseModel):
    model_config = ConfigDict(extra='allow', allow_inf_nan=False)


class _Detection(_Lenient):
    category_name: StrictStr
    model_name: StrictStr
    confidence: StrictFloat | StrictInt
    category_id: StrictStr | None = None


class _Box(_Detection):
    x: StrictInt
    y: StrictInt
    width: StrictInt
    height: StrictInt


class _Point(_Detection):
    x: StrictFloat | StrictInt
    y: StrictFloat | StrictInt


class _AnnotatedBox(_Lenient):
    category_name: StrictStr
    x: StrictInt
    y: StrictInt
    width: StrictInt
    height: StrictInt


class _AnnotatedPoint(_Lenient):
    category_name: StrictStr
    x: StrictFloat | StrictInt
    y: StrictFloat | StrictInt


class _Metadata(_Lenient):
    """ImageMetadata of learning_loop_node, with the types that its own reader requires."""

    box_detections: list[_Box] = []
    point_detections: list[_Point] = []
    segmentation_detections: list[_Detection] = []
    classification_detections: list[_Detection] = []
    box_annotations: list[_AnnotatedBox] = []
    point_annotations: list[_AnnotatedPoint] = []
    classification_annotation: dict[str, Any] | None = None
    tags: list[StrictStr] = []
    created: StrictStr | None = None
    source: StrictStr | None = None
    state: StrictStr | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedImage:
    """An uploaded image and its metadata.

    :param name: file name without its ending, decoded.
    :param size: width, height in pixels.
    """

    name: str
    jpeg: bytes
    metadata: dict[str, Any]
    size: tuple[int, int]


def names_of(filenames: Sequence[str]) -> list[str]:
    """Return the names of the images of a batch, in their order."""
    return list(dict.fromkeys(_stem(filename) for filename in filenames))


def read_batch(files: Sequence[tuple[str, bytes]]) -> list[ReceivedImage]:
    """Pair the parts of an upload by their names and check each pair.

    :param files: file name and content; escapes such as `%3A` are decoded.
    :raises LoopError: names the first broken part; then no image of the batch may be stored.
    """
    pairs: dict[str, dict[str, bytes]] = {}
    for filename, content in files:
        kind = 'json' if PurePosixPath(unquote(filename)).suffix.lower() == '.json' else 'image'
        pair = pairs.setdefault(_stem(filename), {})
        if kind in pair:
            _reject(filename, f'the batch has a second {kind} of this name')
        pair[kind] = content
    return [_read_pair(name, pair) for name, pair in pairs.items()]


def _stem(filename: str) -> str:
    return PurePosixPath(unquote(filename)).stem


def _read_pair(name: str, pair: dict[str, bytes]) -> ReceivedImage:
    if 'image' not in pair:
        _reject(name, 'the batch has metadata, but no image of this name')
    metadata = _read_metadata(name, pair['json']) if 'json' in pair else {}
    return ReceivedImage(name=name, jpeg=pair['image'], metadata=metadata, size=_check_jpeg(name, pair['image']))


def _read_metadata(name: str, content: bytes) -> dict[str, Any]:
    try:
        metadata = json.loads(content, parse_constant=_refuse_constant)
        _Metadata.model_validate(metadata)
    except ValidationError as error:
        problem = error.errors()[0]
        _reject(name, f'{".".join(map(str, problem["loc"])) or "the metadata"}: {problem["msg"]}')
    except ValueError as error:
        _reject(name, f'the metadata is not JSON: {error}')
    assert isinstance(metadata, dict)
    return metadata


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f'{constant} is not a JSON number')


def _check_jpeg(name: str, content: bytes) -> tuple[int, int]:
    try:
        with PillowImage.open(io.BytesIO(content)) as picture:
            picture.load()
            if picture.format not in {'JPEG', 'MPO'}:
                _reject(name, f'the image is {picture.format}, not JPEG')
            return picture.size
    except LoopError:
        raise
    except Exception as error:  # Pillow raises many types for broken files
        _reject(name, f'the image is broken: {error}')


def _reject(name: str, reason: str) -> NoReturn:
    raise LoopError(f'{name}: {reason}')


def draw_skeletons(jpeg: bytes, metadata: dict[str, Any]) -> bytes:
    """Return a JPEG with the skeletons of its metadata drawn over it."""
    return images.encode_jpeg(overlay.draw_poses(images.decode_image(jpeg), poses_from_metadata(metadata)), quality=90)
