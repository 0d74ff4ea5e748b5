"""Queries of the data manager; tests/integration asks a real Label Studio."""

import json

import pytest

from detector.label_studio.server.data_manager import ANNOTATED, condition, is_confused, predicted, query


def test_a_query_sorts_and_filters() -> None:
    """A query without filters only sorts; a task must pass all filters of the others."""
    assert json.loads(query()) == {'ordering': ['tasks:id']}
    assert json.loads(query(order='-updated_at')) == {'ordering': ['-tasks:updated_at']}
    newer = condition('id', 'greater', 'Number', 7)
    assert newer == {'filter': 'filter:tasks:id', 'operator': 'greater', 'type': 'Number', 'value': 7}
    asked = json.loads(query(newer, ANNOTATED, order='updated_at'))
    assert asked == {'ordering': ['tasks:updated_at'], 'filters': {'conjunction': 'and', 'items': [newer, ANNOTATED]}}


@pytest.mark.parametrize(
    ('known', 'expected'), [(['a 1.0'], False), (['a 1.0', 'b 1.0'], False), (['a 1.0', 'a 1.01'], True), ([], False)]
)
def test_a_version_that_another_one_contains_is_confused_with_it(known: list[str], expected: bool) -> None:
    """Label Studio compares model versions as substrings, so a filter for `a 1.0` also matches `a 1.01`."""
    assert predicted('contains', 'a 1.0')['value'] == ['a 1.0']
    assert is_confused('a 1.0', known) is expected
