"""The model package: a Learning Loop model with a person detector and a pose estimator.

Packed it is a flat zip of `model.json`, `det.onnx` and `pose.onnx`; installed it is a folder of these files.
`model.json` holds the Loop's ModelInformation and one more object, `wholebody`. The Loop client drops unknown keys, so
this module reads the file itself, and the file must never be written back through the client.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from detector.errors import DamagedPackage, InvalidPackage
from detector.pose.names import canonical_name
from detector.pose.similarity import ABSENT, PRESENT
from detector.pose.skeleton import KEYPOINT_NAMES, PARTS, PERSON, category_id
from detector.system.durable import write_through
from detector.system.json_file import fault_of, parse

from .archive import MAX_UNPACKED_BYTES, unpack_archive
from .embedded import EMBEDDED_NAMES, EMBEDDED_VERSIONS

MODEL_FORMAT: Final = 'rtmlib_wholebody'
MODEL_JSON: Final = 'model.json'
_MAX_MODEL_JSON_BYTES: Final = 1024**2
_MAX_RAW_SCORE: Final = 1e6
VERSION: Final = re.compile(r'\d{1,9}(\.\d{1,9}){0,3}', re.ASCII)
"""Form of a version: numbers and dots. learning_loop_node recognises installed versions by it."""

IMAGENET_MEAN: Final = np.array([123.675, 116.28, 103.53])
IMAGENET_STD: Final = np.array([58.395, 57.12, 57.375])
"""Normalisation of RTMPose and RTMW, RGB, 0..255, from the data preprocessor in their mmpose configs."""

ColorOrder = Literal['RGB', 'BGR']
Triple = tuple[float, float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class Network(_Strict):
    """One ONNX network.

    :param input_size: width, height in pixels.
    :param color_order: the channel order that the network was trained on.
    :param mean: value subtracted from each channel, in that order, 0..255; None if the input is not normalised.
    :param std: value that each channel is divided by, in that order.
    """

    file: str = Field(pattern=r'^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx$')
    sha256: str = Field(pattern=r'^[0-9a-f]{64}$')
    input_size: tuple[int, int]
    color_order: ColorOrder
    mean: Triple | None = None
    std: Triple | None = None

    @field_validator('input_size')
    @classmethod
    def _plausible(cls, size: tuple[int, int]) -> tuple[int, int]:
        if not all(32 <= side <= 4096 and side % 32 == 0 for side in size):
            raise ValueError(f'{size[0]}×{size[1]} is not a size of multiples of 32 from 32 to 4096')
        return size

    @model_validator(mode='after')
    def _both_or_none(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError('give both mean and std, or neither')
        if self.std is not None and min(self.std) <= 0:
            raise ValueError('std must be positive')
        return self


class Detector(Network):
    """The YOLOX person detector.

    :param output: `nms`: dets (1, N, 5) and labels (1, N); `raw`: (1, anchors, 5 + classes).
    :param score_threshold: confidence from which a box is answered; None: see `detector.engine.thresholds`.
    :param nms_threshold: IoU above which the less certain of two boxes is dropped; used with `raw` only.
    """

    output: Literal['nms', 'raw']
    score_threshold: float | None = Field(None, ge=0, le=1)
    nms_threshold: float = Field(0.45, ge=0, le=1)


class Estimator(Network):
    """The RTMW or RTMPose pose estimator: simcc_x (N, 133, 2·W), simcc_y (N, 133, 2·H)."""


class Wholebody(_Strict):
    """The object `wholebody` of model.json.

    :param precision: `f32` if a lower precision would break the networks, else `any`.
    :param score_mapping: points (raw score, confidence) of a monotone, piecewise linear mapping. It is needed because
        SimCC peaks are not probabilities.
    :param presence_threshold: a box all of whose keypoints have a lower confidence is no person. Limited to `PRESENT`,
        because a keypoint of a meaningful position is not absent.
    """

    name: str = Field(pattern=r'^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$')
    detector: Detector
    estimator: Estimator
    precision: Literal['any', 'f32'] = 'any'
    score_mapping: list[tuple[float, float]] = Field(default=[(0.0, 0.0), (1.0, 1.0)], min_length=2)
    presence_threshold: float = Field(ABSENT, ge=0, le=PRESENT)
    keypoint_layout: Literal['coco133'] = 'coco133'
    origin: str = ''
    licence: str = ''

    @field_validator('score_mapping')
    @classmethod
    def _monotone(cls, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        raw, mapped = np.array(points).T
        if np.abs(raw).max() > _MAX_RAW_SCORE:
            raise ValueError(f'raw scores must lie within ±{_MAX_RAW_SCORE:g}')
        if not (np.all(np.diff(raw) > 0) and np.all(np.diff(mapped) >= 0)):
            raise ValueError('raw scores must increase, and confidences must not decrease')
        if mapped[0] < 0 or mapped[-1] > 1:
            raise ValueError('confidences must lie in 0..1')
        return points


class _Loadable(BaseModel):
    """Base of the parts that learning_loop_node reads too: its loader accepts exact types only."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())


class _Category(_Loadable):
    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    description: str | None = None
    hotkey: str | None = None
    color: str | None = None
    point_size: int | None = None
    type: str | None = None


class _ModelJson(_Loadable):
    id: str = Field(min_length=1)
    organization: str
    project: str
    version: str = Field(pattern=f'^{VERSION.pattern}$')
    host: str | None = None
    resolution: int | None = None
    model_root_path: str | None = None
    model_size: str | None = None
    conf_threshold: float | None = Field(None, ge=0, le=1)
    categories: list[_Category]
    wholebody: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPackage:
    """An opened package. Its description and the hashes of its networks have been checked.

    :param folder: folder that holds its files.
    :param id: id of the model in the Loop, if it comes from a Loop.
    :param version: numbers and dots, e.g. `1.0`.
    :param wholebody: description of the two networks.
    :param conf_threshold: the Loop's own field for the confidence from which a box is answered.
    :param category_ids: category ids of `person` and the 133 keypoints by canonical name. Ids that the Loop assigned
        take precedence over our own.
    :param information: fields of the Loop's ModelInformation, checked.
    """

    folder: Path
    id: str
    version: str
    wholebody: Wholebody
    conf_threshold: float | None = None
    category_ids: dict[str, str]
    information: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the model, e.g. `balanced`."""
        return self.wholebody.name

    @property
    def model_version(self) -> str:
        """Name and version, as shown in answers and in Label Studio."""
        return f'{self.name} {self.version}'

    @property
    def is_embedded(self) -> bool:
        """True for the starter and the test card as the project makes them.

        A package of the same name is a model like any other if it is installed, which puts it into the folder of its
        version, or if a Loop offers it under a version of its own.
        """
        is_installed = self.folder.name == self.version
        return self.name in EMBEDDED_NAMES and self.version.startswith(EMBEDDED_VERSIONS) and not is_installed

    @property
    def reported_version(self) -> str:
        """Version in status reports, in metadata for the Loop and in `/model_version`.

        An embedded model is reported by its name, because its version belongs to no Loop.
        """
        return self.name if self.is_embedded else self.version

    @property
    def detector_path(self) -> Path:
        """ONNX file of the person detector."""
        return self.folder / self.wholebody.detector.file

    @property
    def estimator_path(self) -> Path:
        """ONNX file of the pose estimator."""
        return self.folder / self.wholebody.estimator.file


Verify = Callable[[Path], ModelPackage]
"""Checks the archive of a package completely; `detector.engine.verification.verify` is the implementation."""


def open_package(folder: Path | str) -> ModelPackage:
    """Open an unpacked package, and check its description and the hashes of its networks.

    :param folder: folder of model.json and the two networks; `unpack_package` makes it from a zip.
    :raises InvalidPackage: names the file or field and the reason.

    >>> package = open_package(embedded_package())
    >>> package.model_version, package.wholebody.estimator.input_size
    ('test-card 0.0', (192, 256))
    """
    package = _described(Path(folder))
    _check_hash(package.detector_path, package.wholebody.detector.sha256)
    _check_hash(package.estimator_path, package.wholebody.estimator.sha256)
    return package


def unpack_package(archive: Path | str, folder: Path | str) -> ModelPackage:
    """Unpack the zip of a package and open it.

    :param archive: zip of model.json, det.onnx and pose.onnx.
    :param folder: an existing, empty folder, in which the package is used afterwards.
    :raises InvalidPackage: names the file or field and the reason.

    >>> from tempfile import mkdtemp
    >>> unpack_package('package.zip', mkdtemp()).version
    '0.0'
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise InvalidPackage(f'{archive}: no such file')
    unpack_archive(archive, folder)
    return open_package(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedModel:
    """Version and id under which the Loop offers a model."""

    version: str
    model_id: str


def set_identity(package: ModelPackage, offered: OfferedModel) -> ModelPackage:
    """Change version and id in the description of an opened package; its networks are not read again.

    :raises InvalidPackage: the version or id has the wrong form.
    """
    path = package.folder / MODEL_JSON
    content = json.loads(path.read_bytes())
    content |= {'version': offered.version, 'id': offered.model_id}
    write_through(path, json.dumps(content, indent=1).encode())
    return _described(package.folder)


def _described(folder: Path) -> ModelPackage:
    """Return the package that a folder describes. The files of its networks are not looked at."""
    description = _validated(_ModelJson, _read_json(folder / MODEL_JSON))
    return ModelPackage(
        folder=folder,
        id=description.id,
        version=description.version,
        wholebody=_validated(Wholebody, description.wholebody, 'wholebody'),
        conf_threshold=description.conf_threshold,
        category_ids=_category_ids(description.categories),
        information=description.model_dump(exclude={'wholebody', 'model_root_path'}),
    )


def _read_json(path: Path) -> Any:
    try:
        if path.parent.is_file():
            raise InvalidPackage(f'{path.parent.name} is a file; unpack the package into a folder first')
        _check_file(path, _MAX_MODEL_JSON_BYTES)
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise InvalidPackage(f'{MODEL_JSON} is missing') from None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidPackage(f'{MODEL_JSON} is not readable as JSON: {error}') from error


M = TypeVar('M', bound=BaseModel)


def _validated(kind: type[M], content: Any, *path: str) -> M:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        field = '.'.join(str(part) for part in (*path, *problem['loc'])) or 'the file'
        raise InvalidPackage(f'{MODEL_JSON}: {field}: {problem["msg"]}') from None


def _check_hash(path: Path, expected: str) -> None:
    try:
        _check_file(path, MAX_UNPACKED_BYTES)
        actual = file_sha256(path)
    except FileNotFoundError:
        raise InvalidPackage(f'{path.name} is missing') from None
    except OSError as error:
        raise InvalidPackage(f'{path.name} cannot be read: {error.strerror}') from error
    if actual != expected:
        raise DamagedPackage(f'{path.name}: sha256 is {actual}, {MODEL_JSON} says {expected}')


def _check_file(path: Path, max_bytes: int) -> None:
    """Raise an error for a file that cannot be read to its end, such as a pipe, and for one that is too large."""
    if (fault := fault_of(path, max_bytes)) is not None:
        raise InvalidPackage(f'{path.name} {fault}')


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _category_ids(categories: list[_Category]) -> dict[str, str]:
    ids: dict[str, str] = {}
    for category in categories:
        name = canonical_name(category.name)
        if name is None:
            continue
        if name in ids:
            raise InvalidPackage(f'{MODEL_JSON}: categories: {name} occurs twice')
        expected = 'box' if name == PERSON else 'point'
        if category.type is not None and category.type != expected:
            raise InvalidPackage(f'{MODEL_JSON}: categories: {name} is a {category.type}; it must be a {expected}')
        ids[name] = category.id
    missing = [name for name in (PERSON, *KEYPOINT_NAMES) if name not in ids]
    if missing:
        more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
        raise InvalidPackage(f'{MODEL_JSON}: categories: {", ".join(missing[:3])}{more} missing')
    return ids


def categories() -> list[dict[str, Any]]:
    """Return the categories of a package in the Loop's form: the person box, then the 133 keypoints in schema order."""
    person = {'id': category_id(PERSON), 'name': PERSON, 'type': 'box', 'color': '#ffe119'}
    points = [
        {
            'id': category_id(name),
            'name': name,
            'type': 'point',
            'color': part.hex_colour,
            'point_size': 5 if part.name in ('body', 'feet') else 2,
        }
        for part in PARTS
        for name in KEYPOINT_NAMES[part.slice]
    ]
    return [person, *points]
