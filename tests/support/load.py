"""A client that keeps a node busy."""

import threading
from dataclasses import dataclass, field

import httpx

from benchmarks.support.cards import CARD
from benchmarks.support.processes import NodeProcess
from benchmarks.support.waiting import eventually


@dataclass
class Load:
    """One client that sends requests without a pause.

    :param failures: descriptions of answers without both persons, and of errors.
    """

    node: NodeProcess
    versions: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    answers: int = 0

    def __enter__(self) -> 'Load':
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for_answers(self, count: int) -> None:
        """Wait until `count` further requests are answered."""
        before = self.answers
        eventually(lambda: self.answers >= before + count, f'{count} more answers')

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self.node.detect(CARD, {'autoupload': 'all'})  # images then go to the Loop too
                assert answer.status_code == 200, answer.text[:200]
                assert len(answer.json()['box_detections']) == 2
                self.versions |= {box['model_name'] for box in answer.json()['box_detections']}
                self.answers += 1
            except (AssertionError, httpx.HTTPError) as error:
                self.failures.append(str(error))
