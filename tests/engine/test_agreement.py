"""Agreement of a precision with f32."""

import numpy as np
import pytest

from benchmarks.support.cards import make_card
from detector.engine.agreement import Agreement, People, compare, find_people, lowest_worst, photographs
from detector.engine.runtimes import open_runtime
from detector.models.package import ModelPackage
from detector.pose.skeleton import KEYPOINT_COUNT, OKS_SIGMAS
from tests.support.networks import make_thresholds
from tests.support.photographs import astronaut, cameraman, portrait

BOXES = np.array([[0, 0, 100, 200], [200, 0, 300, 200], [400, 0, 500, 200]], dtype=np.float32)


def people(boxes: np.ndarray, shift: float = 0) -> People:
    """Return one person per box, with all keypoints in its centre.

    :param shift: distance of the keypoints from the centre, in pixels.
    """
    centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2 + np.array([shift, 0])
    keypoints = np.broadcast_to(centres, (len(boxes), KEYPOINT_COUNT, 2)).astype(np.float32)
    return People(boxes=boxes, keypoints=keypoints, present=np.ones((len(boxes), KEYPOINT_COUNT), dtype=np.bool_))


def test_the_same_persons_agree_in_any_order() -> None:
    """Persons are matched by their boxes, whatever their order, and images are counted together."""
    found = compare([people(BOXES[::-1]), people(BOXES[:1])], [people(BOXES), people(BOXES[:1])])
    assert found == Agreement(mean=1, worst=1, persons=4)
    assert found.suffices(1)


def test_the_similarity_is_the_oks_of_the_present_keypoints() -> None:
    """A shift lowers the similarity by COCO's formula; keypoints that f32 does not see are left out."""
    reference = people(BOXES[:1])
    reference.present[:, 1:] = False
    found = compare([people(BOXES[:1], shift=3)], [reference])
    expected = np.exp(-(3**2) / (2 * 0.53 * 100 * 200 * (2 * OKS_SIGMAS[0]) ** 2))
    assert found.mean == found.worst == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ('found', 'reference'), [(BOXES[:2], BOXES), (BOXES, BOXES[:2]), (BOXES[[0, 1, 1]], BOXES[:2])]
)
def test_a_person_that_one_side_lacks_does_not_agree(found: np.ndarray, reference: np.ndarray) -> None:
    """A missed person, a surplus one and a person found twice count as an OKS of 0."""
    outcome = compare([people(found)], [people(reference)])
    assert outcome.mean == pytest.approx(2 / 3, abs=1e-4)
    assert (outcome.worst, outcome.persons) == (0, 3)
    assert not outcome.suffices(0.99)


def test_without_persons_nothing_agrees() -> None:
    """Where neither side finds a person, there is no agreement, even if none is demanded."""
    nobody = people(BOXES[:0])
    assert compare([nobody], [nobody]) == Agreement(mean=0, worst=0, persons=0)
    assert not compare([nobody], [nobody]).suffices(0)


@pytest.mark.parametrize(
    ('mean', 'worst', 'suffices'), [(0.99, 0.95, True), (0.9899, 0.95, False), (1, 0.9499, False), (1, 1, True)]
)
def test_mean_and_worst_person_must_agree(mean: float, worst: float, suffices: bool) -> None:
    """A demanded mean of 0.99 allows 0.95 for the worst person."""
    assert lowest_worst(0.99) == pytest.approx(0.95)
    assert Agreement(mean=mean, worst=worst, persons=2).suffices(0.99) is suffices


def test_the_persons_of_a_picture_are_found(embedded: ModelPackage) -> None:
    """The persons are those of the engine; a picture without persons has none."""
    runtimes = [open_runtime(path) for path in (embedded.detector_path, embedded.estimator_path)]
    card, photograph = make_card(), astronaut()
    found, none = find_people(embedded, [card, photograph], *runtimes, thresholds=make_thresholds())
    assert found.boxes.shape == (2, 4)
    assert found.keypoints.shape == (2, KEYPOINT_COUNT, 2)
    assert found.present.mean() > 0.9
    assert none.boxes.shape == (0, 4)
    assert compare([found], [found]).mean == 1


def test_the_photographs_are_those_whose_licence_allows_it() -> None:
    """The shipped photographs are the three of the named sources, side by side, and their mirror images."""
    picture, mirrored = photographs()
    assert np.array_equal(picture, mirrored[:, ::-1])
    left = 0
    for source in (portrait(), astronaut(), cameraman()):
        width = round(source.shape[1] * picture.shape[0] / source.shape[0])
        part = picture[:, left : left + width].astype(float)
        scaled = _scaled(source, part.shape[1], part.shape[0])
        assert np.abs(part - scaled).mean() < 6
        left += width
    assert left == picture.shape[1]


def _scaled(image: np.ndarray, width: int, height: int) -> np.ndarray:
    import cv2

    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=float)
