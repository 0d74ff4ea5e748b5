"""A project that stores what commands send to it."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

from detector.label_studio.labels.config import Style, generate
from detector.label_studio.server.project import Json

from .imported import task


class AcceptingProject:
    """Has a task for each of some file names, and stores all predictions and annotations.

    :param stored: results by file name.
    """

    def __init__(self, names: Sequence[str], style: Style = 'skeleton') -> None:
        self.names = list(names)
        self.stored: dict[str, list[Json]] = {}
        self._style: Style = style

    async def label_config(self) -> str:
        return generate(self._style)

    async def tasks(self, **_: object) -> AsyncIterator[Json]:
        for number, name in enumerate(self.names, 1):
            yield task(number, f'/data/upload/1/31fe11d0-{name}')

    async def tasks_with(self, _: str) -> set[int]:
        return set()

    async def change_task(self, task_id: int, **_: object) -> None:
        assert task_id <= len(self.names)

    async def import_predictions(self, predictions: Sequence[Json]) -> int:
        for prediction in predictions:
            self.stored[self.names[prediction['task'] - 1]] = prediction['result']
        return len(predictions)

    async def annotate(self, task_id: int, results: Sequence[Json]) -> Mapping[str, Any]:
        self.stored[self.names[task_id - 1]] = list(results)
        return {}

    async def remove_surplus(self, _: str) -> int:
        return 0

    def in_project(self, _: object, __: str, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """Replace `in_project` of the command line."""
        import asyncio

        return asyncio.run(work(self))
