"""Metadata of any form is either converted to the Loop's form or refused with InvalidRequest."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detector.errors import InvalidRequest
from detector.loop import metadata
from detector.models.package import ModelPackage
from detector.pose.pose import poses_from_metadata
from tests.support.strategies import JSON, METADATA, TEXTS, mutated


@given(JSON | mutated(METADATA))
def test_any_metadata_is_taken_or_refused(payload: Any) -> None:
    """Accepted metadata is JSON that the Loop can read; other metadata raises InvalidRequest."""
    try:
        taken = metadata.parse(payload)
    except InvalidRequest as error:
        assert str(error)
        return
    sent = json.dumps(asdict(taken), allow_nan=False).encode()
    assert metadata.parse(json.loads(sent)) == taken


@pytest.fixture(scope='module')
def categories(embedded: ModelPackage) -> tuple[ModelPackage, Any]:
    from learning_loop_node.data_classes import ModelInformation

    model_info = ModelInformation.load_from_disk(str(embedded.folder))
    assert model_info is not None
    return embedded, model_info


def test_categories_are_found_or_refused(categories: tuple[ModelPackage, Any]) -> None:
    """Each accepted detection or annotation has a category id; an unknown category raises InvalidRequest."""
    package, model_info = categories

    @given(mutated(METADATA))
    def check(payload: Any) -> None:
        try:
            taken = metadata.parse(payload)
            metadata.add_category_ids(taken, package, model_info)
        except InvalidRequest as error:
            assert str(error)
            return
        assert all(box.category_id for box in taken.box_detections)
        assert all(point.category_id for point in taken.point_annotations)

    check()


@given(TEXTS | st.datetimes().map(lambda moment: moment.isoformat()))
def test_any_date_is_taken_or_refused(text: str) -> None:
    """A date in ISO 8601 is accepted, and any other text raises InvalidRequest."""
    try:
        assert metadata.check_date(text) == text
    except InvalidRequest as error:
        assert str(error)


@example({'box_detections': [{'x': 1e300, 'y': 0, 'width': 1, 'height': 1, 'confidence': 1}]})
@given(JSON | mutated(METADATA))
def test_stored_metadata_gives_poses_or_a_value_error(payload: Any) -> None:
    """Metadata that another program has put into the outbox gives poses or raises an error that its readers handle."""
    try:
        poses_from_metadata(payload)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        assert error.args
