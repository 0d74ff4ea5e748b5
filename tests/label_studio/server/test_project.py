"""Projects of Label Studio, with a connection in memory; tests/integration uses a real server."""

import re
from typing import Any, cast

from detector.errors import NotInLabelStudio
from detector.label_studio.server.client import Connection
from detector.label_studio.server.project import Project

Json = dict[str, Any]


class Predictions(Connection):
    """Label Studio with predictions of one version by task.

    :param gone: predictions that another client deletes as soon as they are listed.
    """

    def __init__(self, predictions: dict[int, list[int]], *, gone: set[int]) -> None:
        super().__init__('http://127.0.0.1:1', None)
        self.predictions = predictions
        self._gone = gone

    async def request(self, method: str, path: str, *, params: Any = None, **content: Any) -> Any:
        if method == 'DELETE':
            number = int(re.findall(r'\d+', path)[0])
            if number in self._gone:
                raise NotInLabelStudio(f'no {path}')
            self.predictions = {task: [n for n in found if n != number] for task, found in self.predictions.items()}
            return None
        if path.endswith('/model-versions/'):
            return {'static': [{'model_version': 'm 1.0', 'count': sum(map(len, self.predictions.values()))}]}
        if path == '/api/predictions/':
            return [{'id': number, 'model_version': 'm 1.0'} for number in self.predictions[params['task']]]
        tasks = [{'id': task, 'total_predictions': len(found)} for task, found in self.predictions.items()]
        return {'tasks': tasks, 'total': len(tasks)}


async def test_surplus_that_another_run_has_deleted_is_done() -> None:
    """The oldest of a task's predictions of one version stays; one that another run has deleted is not an error."""
    connection = Predictions({1: [11, 12], 2: [21], 3: [31, 32, 33]}, gone={32})
    deleted = await Project(cast(Connection, connection), 7).remove_surplus('m 1.0')
    assert deleted == 2
    assert connection.predictions == {1: [11], 2: [21], 3: [31, 32]}
    await connection.close()
