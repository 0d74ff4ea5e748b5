"""Make a package from two ONNX files. Input sizes and output forms are read from the files."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from pydantic import ValidationError

from detector.errors import InvalidPackage
from detector.pose.skeleton import category_id

from .archive import write_archive
from .package import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MODEL_FORMAT,
    MODEL_JSON,
    ColorOrder,
    Detector,
    Estimator,
    ModelPackage,
    Verify,
    Wholebody,
    categories,
    file_sha256,
)

_UNHASHED = 64 * '0'
"""Placeholder until `pack` fills in the hash of the file."""


def pack_onnx(
    archive: Path,
    *,
    detector: Path,
    estimator: Path,
    name: str,
    version: str,
    verify: Verify,
    detector_color: ColorOrder = 'BGR',
    estimator_color: ColorOrder = 'RGB',
    score_threshold: float | None = None,
    score_mapping: str = '0:0,1:1',
    origin: str = '',
    licence: str = '',
) -> ModelPackage:
    """Pack two ONNX files and verify the result. A package that fails is removed.

    :param archive: package to write.
    :param detector: ONNX file of a YOLOX person detector.
    :param estimator: ONNX file of an RTMW or RTMPose whole-body estimator.
    :param verify: `detector.engine.verification.verify`.
    :param detector_color: channel order that the detector expects.
    :param estimator_color: channel order that the estimator expects.
    :param score_threshold: confidence from which a box is answered; None: the package states none.
    :param score_mapping: points `raw:confidence`, rising, separated by commas.
    :raises InvalidPackage: a file is not such a network, or a value cannot be used.
    """
    try:
        wholebody = Wholebody(
            name=name,
            detector=describe_detector(detector, detector_color, score_threshold),
            estimator=describe_estimator(estimator, estimator_color),
            score_mapping=_parse_mapping(score_mapping),
            origin=origin,
            licence=licence,
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidPackage(f'{".".join(map(str, problem["loc"]))}: {problem["msg"]}') from None
    partial = archive.with_name(f'.unverified-{archive.name}')
    try:
        pack(partial, detector=detector, estimator=estimator, wholebody=wholebody, identity=Identity(version=version))
        package = verify(partial)
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)
    return package


def describe_detector(path: Path, color_order: ColorOrder, score_threshold: float | None) -> Detector:
    """Return the description of a person detector, without its hash.

    :raises InvalidPackage: the file is not such a network.
    """
    return Detector(
        file='det.onnx',
        sha256=_UNHASHED,
        input_size=_input_size(path),
        color_order=color_order,
        output=_detector_output(path),
        score_threshold=score_threshold,
    )


def describe_estimator(path: Path, color_order: ColorOrder) -> Estimator:
    """Return the description of a pose estimator with the published normalisation, without its hash.

    :raises InvalidPackage: the file is not such a network.
    """
    return Estimator(
        file='pose.onnx',
        sha256=_UNHASHED,
        input_size=_input_size(path),
        color_order=color_order,
        mean=tuple(IMAGENET_MEAN.tolist()),
        std=tuple(IMAGENET_STD.tolist()),
    )


def _parse_mapping(text: str) -> list[tuple[float, float]]:
    try:
        return [(float(raw), float(confidence)) for raw, confidence in (pair.split(':') for pair in text.split(','))]
    except ValueError:
        raise InvalidPackage(f'the score mapping {text!r} is not of the form raw:confidence,raw:confidence') from None


def _graph(path: Path) -> onnx.GraphProto:
    try:
        return onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise InvalidPackage(f'{path.name} is not a readable ONNX file: {error}') from error


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Return the sizes of a tensor; 0 for a size that is not fixed."""
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def _input_size(path: Path) -> tuple[int, int]:
    graph = _graph(path)
    weights = {weight.name for weight in graph.initializer}
    inputs = [_shape(value) for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0][1] != 3 or 0 in inputs[0][2:]:
        raise InvalidPackage(
            f'{path.name}: inputs are {inputs}; one input (N, 3, height, width) of fixed size is needed'
        )
    return inputs[0][3], inputs[0][2]


def _detector_output(path: Path) -> str:
    outputs = [_shape(value) for value in _graph(path).output]
    if outputs and len(outputs[0]) == 3:
        if outputs[0][2] == 5:
            return 'nms'
        if len(outputs) == 1 and outputs[0][2] > 5:
            return 'raw'
    raise InvalidPackage(f'{path.name}: outputs are {outputs}; dets (1, N, 5) or (1, anchors, 5 + classes) are needed')


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The part of the Loop's ModelInformation that does not describe the networks."""

    version: str
    organization: str = 'local'
    project: str = 'wholebody'


def pack(archive: Path, *, detector: Path, estimator: Path, wholebody: Wholebody, identity: Identity) -> None:
    """Write a package. The hashes in `wholebody` are replaced by the hashes of the files.

    :param detector: ONNX file of the person detector; packed as `det.onnx`.
    :param estimator: ONNX file of the pose estimator; packed as `pose.onnx`.
    """
    files = package_files(detector=detector, estimator=estimator, wholebody=wholebody, identity=identity)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix='.pack-') as folder:
        partial = Path(folder) / archive.name
        write_archive(partial, files)
        partial.replace(archive)


def package_files(
    *, detector: Path, estimator: Path, wholebody: Wholebody, identity: Identity
) -> dict[str, Path | bytes]:
    """Return the files of a package by name; see `pack`."""
    networks = {'detector': ('det.onnx', detector), 'estimator': ('pose.onnx', estimator)}
    content = wholebody.model_dump(mode='json')
    for role, (name, path) in networks.items():
        content[role] |= {'file': name, 'sha256': file_sha256(path)}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    model_json = {
        'id': category_id(f'{wholebody.name} {identity.version} {digest}'),
        'host': '',
        'organization': identity.organization,
        'project': identity.project,
        'version': identity.version,
        'format': MODEL_FORMAT,
        'resolution': max(wholebody.detector.input_size),
        'model_size': wholebody.name,
        'conf_threshold': wholebody.detector.score_threshold,
        'categories': categories(),
        'wholebody': Wholebody.model_validate(content).model_dump(mode='json'),
    }
    return {MODEL_JSON: json.dumps(model_json, indent=1).encode()} | dict(networks.values())
