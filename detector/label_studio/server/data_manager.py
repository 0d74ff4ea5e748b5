"""Queries of Label Studio's data manager: which tasks it lists, and in which order."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal


def condition(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    """Return a filter that compares a column of the tasks with a value.

    :param kind: type of the column, such as `Number`.
    """
    return {'filter': f'filter:tasks:{column}', 'operator': operator, 'type': kind, 'value': value}


def all_of(conditions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the filters of a tab or a query; a task must pass each of them."""
    return {'conjunction': 'and', 'items': list(conditions)}


ANNOTATED: Final = condition('total_annotations', 'greater', 'Number', 0)
"""Filter for tasks with at least one annotation that was not skipped."""


def query(*conditions: Mapping[str, Any], order: str = 'id') -> str:
    """Return the parameter `query` of a list of tasks.

    :param order: column to sort by, in descending order with a leading `-`.
    """
    sign = '-' if order.startswith('-') else ''
    wanted: dict[str, Any] = {'ordering': [f'{sign}tasks:{order.removeprefix("-")}']}
    return json.dumps(wanted | ({'filters': all_of(conditions)} if conditions else {}))


def predicted(operator: Literal['contains', 'not_contains'], model_version: str) -> dict[str, Any]:
    """Return a filter for tasks by the model versions of their predictions; Label Studio compares substrings."""
    return condition('predictions_model_versions', operator, 'List', [model_version])


def is_confused(model_version: str, known: Iterable[str]) -> bool:
    """Return True if another version contains this one, so that `predicted` takes the two for the same."""
    return any(model_version in other and model_version != other for other in known)
