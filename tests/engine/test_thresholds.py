"""The thresholds that apply to a model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.engine.pose_engine import EngineOptions
from detector.engine.thresholds import DEFAULT_PERSON, Thresholds
from detector.models.package import ModelPackage
from detector.settings import Settings


def with_detector(package: ModelPackage, *, conf_threshold: float | None = None, **changes: Any) -> ModelPackage:
    """Return the package with another `conf_threshold` and changes to its detector's description."""
    detector = package.wholebody.detector.model_copy(update=changes)
    description = package.wholebody.model_copy(update={'detector': detector})
    return replace(package, wholebody=description, conf_threshold=conf_threshold)


@pytest.mark.parametrize(
    ('setting', 'score', 'conf', 'expected', 'origin'),
    [
        (0.8, 0.4, 0.6, 0.8, 'PERSON_THRESHOLD'),
        (0.0, 0.4, 0.6, 0.0, 'PERSON_THRESHOLD'),
        (None, 0.4, 0.6, 0.4, 'score_threshold'),
        (None, 0.0, 0.6, 0.0, 'score_threshold'),
        (None, None, 0.6, 0.6, 'conf_threshold'),
        (None, None, None, DEFAULT_PERSON, 'default'),
    ],
)
def test_the_first_stated_threshold_applies(
    embedded: ModelPackage,
    setting: float | None,
    score: float | None,
    conf: float | None,
    expected: float,
    origin: str,
) -> None:
    """The setting overrides the object `wholebody`, which overrides the Loop's field; zero is a stated value."""
    package = with_detector(embedded, conf_threshold=conf, score_threshold=score)
    thresholds = Thresholds.of(package, EngineOptions(person_threshold=setting))
    assert (thresholds.person, thresholds.person_from) == (expected, origin)
    assert f'persons from {expected:g} ({origin})' in str(thresholds)


def test_the_setting_for_overlap_applies_to_raw_detectors_only(embedded: ModelPackage) -> None:
    """NMS_THRESHOLD overrides the package's value; a detector that drops overlapping boxes itself has none."""
    raw = with_detector(embedded, output='raw', nms_threshold=0.6)
    assert Thresholds.of(raw, EngineOptions()).nms == 0.6
    assert Thresholds.of(raw, EngineOptions(nms_threshold=0.2)).nms == 0.2
    thresholds = Thresholds.of(embedded, EngineOptions(nms_threshold=0.2))
    assert thresholds.nms is None
    assert 'in the network' in str(thresholds)


def test_settings_reach_the_thresholds(embedded: ModelPackage) -> None:
    """The thresholds of an engine follow from the settings of the node."""
    settings = Settings(
        person_threshold=0.7, nms_threshold=0.3, min_uncertain_threshold=0.2, max_uncertain_threshold=0.9
    )
    thresholds = Thresholds.of(with_detector(embedded, output='raw'), EngineOptions.of(settings))
    assert thresholds.about() == {
        'person': 0.7,
        'person_from': 'PERSON_THRESHOLD',
        'uncertain': (0.2, 0.9),
        'nms': 0.3,
        'presence': 0.15,
    }
    assert thresholds.lowest(with_uncertain=False) == 0.7
    assert thresholds.lowest(with_uncertain=True) == 0.2
    assert replace(thresholds, person=0.1).lowest(with_uncertain=True) == 0.1


@pytest.mark.parametrize('threshold', [0.3, 0.7, 0.9])
def test_a_confidence_equal_to_the_threshold_is_answered(embedded: ModelPackage, threshold: float) -> None:
    """A confidence in single precision, as a float or in an array, equals the threshold that it was made from."""
    thresholds = Thresholds.of(embedded, EngineOptions(person_threshold=threshold))
    single = np.float32(threshold)
    assert thresholds.answers(float(single))
    assert thresholds.answers(np.array([single, np.nextafter(single, np.float32(0))])).tolist() == [True, False]
