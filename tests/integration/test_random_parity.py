"""Our f32 boxes and keypoints equal rtmlib's on networks of the published architecture with random weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from rtmlib import YOLOX, RTMPose

from benchmarks import random_weights
from benchmarks.network_layers import random_pictures
from benchmarks.yolox_network import Form
from detector.engine.person_detector import PersonDetector, are_large, clip_boxes
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.engine.runtimes import Backend, open_runtime
from detector.engine.thresholds import Thresholds
from detector.models.package import ModelPackage, unpack_package
from detector.pose.images import Image
from detector.pose.pose import FloatArray, Pose
from tests.support.rtmlib_precision import computing_f32

pytestmark = pytest.mark.integration

BACKENDS: Final = get_args(Backend)
FORMS: Final = get_args(Form)
SIZES: Final = {0: (517, 333), 1: (481, 457), 4: (333, 517), 10: (1203, 801)}
"""Width and height of the pictures, by the number of persons that the detector finds in them."""
MAX_DISTANCE: Final = 0.5
"""Largest difference of a coordinate in pixels, unless rtmlib's two best bins tie."""
MIN_SHARE: Final = 0.999
"""Smallest share of keypoints within `MAX_DISTANCE`, including ties."""
TIE: Final = 1e-4
"""Largest difference of two tied bins, relative to the larger value."""
BORDER_SIZE: Final = (601, 399)
BORDER_BOXES: Final = [
    (0, 60.5, 130, 330),  # at the left border
    (200, 0, 310.2, 250),  # at the top
    (480.7, 50, 601, 340),  # at the right border
    (250, 120, 390, 399),  # at the bottom
    (0, 0, 601, 399),  # the whole image
    (-70.3, -95, 110, 190),  # beyond the upper left corner
    (470, 230.4, 690, 560),  # beyond the lower right corner
    (-60, -40, 660, 450),  # beyond all borders
]

Boxes = Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Our engine and rtmlib's pose estimator, on the same network and runtime."""

    backend: Backend
    engine: PoseEngine
    estimator: RTMPose


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Poses of the persons in a picture by rtmlib and by our engine.

    :param keypoints: keypoints by rtmlib, (N, 133, 2), clipped to the image.
    :param confidences: scores by rtmlib, (N, 133), clipped to 0..1.
    :param tied: (N, 133, 2), True where the two best bins in x or in y tie.
    """

    keypoints: FloatArray
    confidences: FloatArray
    tied: NDArray[np.bool_]
    ours: list[Pose]


@pytest.fixture(scope='module')
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """Build the package of the lightweight mode, whose detector includes the NMS and finds four persons."""
    folder = tmp_path_factory.mktemp('random-parity')
    archive = random_weights.pack(folder, 'lightweight', 4, 'nms')
    unpacked = folder / 'unpacked'
    unpacked.mkdir()
    return unpack_package(archive, unpacked)


@pytest.fixture(scope='module')
def packages(package: ModelPackage) -> dict[tuple[Form, int | None], ModelPackage]:
    """Make a package for each form of detector and number of persons; None for a detector with random boxes."""
    kinds = [(form, persons) for form in FORMS for persons in (None, 0, 1, 4, 10)]
    return {kind: package if kind == ('nms', 4) else _with_detector(package, *kind) for kind in kinds}


def _with_detector(package: ModelPackage, form: Form, persons: int | None) -> ModelPackage:
    # rtmlib counts each class as a person, so a detector with random boxes has one class
    classes = 1 if persons is None else None
    path = random_weights.write_detector(package.folder, 'yolox-tiny', form=form, persons=persons, classes=classes).path
    # with NMS in the graph, rtmlib's threshold is fixed
    threshold = 0.3 if form == 'nms' else 0.1
    return _with(package, file=path.name, output=form, score_threshold=threshold)


def _with(package: ModelPackage, **changes: Any) -> ModelPackage:
    """Return the package with changes to its detector's description."""
    detector = package.wholebody.detector.model_copy(update=changes)
    return replace(package, wholebody=package.wholebody.model_copy(update={'detector': detector}))


@pytest.fixture(scope='module', params=BACKENDS)
def pair(package: ModelPackage, request: pytest.FixtureRequest) -> Pair:
    backend = cast(Backend, request.param)
    engine = PoseEngine(package, EngineOptions(backend_type=backend, precision='f32'))
    engine.check()
    assert engine.runtime.startswith(backend)
    assert engine.runtime.endswith('f32')
    assert engine.estimator.batch_sizes == (8, 4, 2, 1)
    spec = package.wholebody.estimator
    estimator = RTMPose(str(package.estimator_path), spec.input_size, spec.mean, spec.std, backend=backend)
    return Pair(backend, engine, computing_f32(estimator))


def our_detector(package: ModelPackage, backend: Backend) -> PersonDetector:
    return PersonDetector(
        open_runtime(package.detector_path, backend_type=backend),
        package.wholebody.detector,
        Thresholds.of(package, EngineOptions()),
    )


def their_detector(package: ModelPackage, backend: Backend) -> YOLOX:
    spec = package.wholebody.detector
    detector = YOLOX(
        str(package.detector_path),
        spec.input_size[::-1],
        score_thr=Thresholds.of(package, EngineOptions()).person,
        nms_thr=spec.nms_threshold,
        backend=backend,
    )
    return computing_f32(detector)


def their_boxes(detector: YOLOX, image: Image) -> FloatArray:
    """Return rtmlib's boxes for the image in BGR, without boxes of which too little lies in the image."""
    boxes = np.reshape(detector(np.ascontiguousarray(image[..., ::-1])), (-1, 4)).astype(np.float32)
    return boxes[are_large(clip_boxes(boxes, image.shape))]


def compare(estimator: RTMPose, image: Image, boxes: FloatArray, ours: list[Pose]) -> Comparison:
    """Compare our poses with rtmlib's for the boxes. The steps of rtmlib's call run one by one, which shows the bins.

    :param image: RGB image, since the estimator expects RGB.
    """
    keypoints, scores, tied = [], [], []
    for box in boxes:
        crop, centre, scale = estimator.preprocess(image, box)
        simcc = estimator.inference(crop)
        (person,), (of_person,) = estimator.postprocess(simcc, centre, scale)
        second, best = np.stack([np.partition(values[0], -2)[:, -2:] for values in simcc], axis=1).transpose(2, 0, 1)
        keypoints.append(person)
        scores.append(of_person)
        tied.append(best - second <= TIE * np.abs(best))
    height, width = image.shape[:2]
    return Comparison(
        keypoints=np.clip(keypoints, 0, [width - 1, height - 1]),
        confidences=np.clip(scores, 0, 1),
        tied=np.array(tied),
        ours=ours,
    )


def assert_equal(comparisons: Sequence[Comparison]) -> None:
    """Assert that confidences are equal and that keypoints differ only at ties, which are rare."""
    apart = []
    for comparison in comparisons:
        assert len(comparison.ours) == len(comparison.keypoints)
        confidences = np.stack([pose.confidences for pose in comparison.ours])
        np.testing.assert_allclose(confidences, comparison.confidences, rtol=0, atol=1e-4)
        distances = np.abs(np.stack([pose.keypoints for pose in comparison.ours]) - comparison.keypoints)
        moved = distances > MAX_DISTANCE
        assert not np.any(moved & ~comparison.tied), (
            f'{np.sum(moved & ~comparison.tied)} of {moved.size} coordinates lie up to '
            f'{distances[~comparison.tied].max():.2f} px apart without a tie'
        )
        apart.append(moved.any(axis=2).ravel())
    assert np.mean(np.concatenate(apart)) <= 1 - MIN_SHARE


def picture(size: tuple[int, int]) -> Image:
    (image,) = random_pictures(1, width=size[0], height=size[1], seed=11)
    return cast(Image, image)


def scattered(count: int, size: tuple[int, int]) -> FloatArray:
    """Return boxes of many sizes and shapes inside an image, (count, 4)."""
    rng = np.random.default_rng(count)
    sides = rng.uniform(0.15, 0.6, (count, 2)) * size
    corners = rng.uniform(0, 1, (count, 2)) * (size - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def test_keypoints_in_given_boxes_equal_those_of_rtmlib(pair: Pair) -> None:
    """Keypoints in given boxes equal rtmlib's, for up to ten persons and for boxes at and beyond the border."""
    queries = [(picture(size), scattered(persons, size)) for persons, size in SIZES.items() if persons]
    queries.append((picture(BORDER_SIZE), np.array(BORDER_BOXES, dtype=np.float32)))
    found = [
        pair.engine.poses_in_boxes([(image, boxes, np.ones(len(boxes), dtype=np.float32))])[0]
        for image, boxes in queries
    ]
    assert_equal(
        [compare(pair.estimator, image, boxes, ours) for (image, boxes), ours in zip(queries, found, strict=True)]
    )


@pytest.mark.parametrize('form', FORMS)
def test_from_the_picture_to_keypoints_all_equals_rtmlib(
    pair: Pair, packages: dict[tuple[Form, int | None], ModelPackage], form: Form
) -> None:
    """Boxes and keypoints equal rtmlib's for zero, one, four and ten persons."""
    comparisons = []
    for persons, size in SIZES.items():
        package, image = packages[form, persons], picture(size)
        pair.engine.detector = our_detector(package, pair.backend)
        pair.engine.detector.check()
        ours = pair.engine.poses(image)
        boxes = their_boxes(their_detector(package, pair.backend), image)
        assert len(ours) == len(boxes) == persons
        if not persons:
            continue  # rtmlib's estimator would take the whole image for a person
        np.testing.assert_allclose(np.stack([pose.box for pose in ours]), boxes, rtol=0, atol=0.01)
        comparisons.append(compare(pair.estimator, image, boxes, ours))
    assert_equal(comparisons)


@pytest.mark.parametrize(
    ('form', 'nms_threshold'),
    [
        ('nms', 0.45),
        ('raw', 1.0),
        ('raw', 0.45),
    ],
    ids=['nms', 'raw, all overlapping', 'raw, few overlapping'],
)
@pytest.mark.parametrize('backend', BACKENDS)
def test_boxes_anywhere_equal_those_of_rtmlib(
    packages: dict[tuple[Form, int | None], ModelPackage], backend: Backend, form: Form, nms_threshold: float
) -> None:
    """Boxes of all sizes and scores equal rtmlib's in number, order and coordinates, also beyond the border."""
    package = _with(packages[form, None], nms_threshold=nms_threshold)
    count = 0
    ours = our_detector(package, backend)
    for size in ((97, 61), (481, 457), (1203, 801)):
        boxes, _ = ours.detect(picture(size))
        # a new network each time, since OpenCV 5.0.0 gives wrong results if a later run finds more boxes than the first
        expected = their_boxes(their_detector(package, backend), picture(size))
        assert len(boxes) == len(expected)
        np.testing.assert_allclose(boxes, expected, rtol=0, atol=0.01)
        count += len(boxes)
    assert count > 20
