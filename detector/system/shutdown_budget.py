"""How long a shutdown may take, phase by phase."""

from dataclasses import dataclass
from typing import Final

DOCKER_SECONDS: Final = 10.0
"""Time between Docker's SIGTERM and its SIGKILL, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownBudget:
    """Time limits of the phases of a shutdown, in seconds.

    After a signal these phases follow each other: running requests and events finish, late ones are cut off and
    answered, their answers leave, the server closes its connections, and the parts of the node end. While requests
    finish, request bodies must arrive and the upload to the Learning Loop stops. If the phases together take longer
    than `orderly`, the process ends by force.

    :param bodies: for request bodies that are still arriving.
    :param requests: for running requests and events.
    :param answers: for answering the requests and events that were cut off.
    :param flush: for sending the last answers to Socket.IO clients.
    :param upload: for the running request of the outbox to the Learning Loop.
    :param connections: for clients that do not read their answers, in whole seconds as uvicorn wants them.
    :param saving: for accepted images that are still being saved.
    :param reserve: between the end of one limit and the next, for what the phases do besides waiting.
    :param last_log: for the log line before a forced exit.
    """

    bodies: float = 1.0
    requests: float = 3.0
    answers: float = 0.4
    flush: float = 0.1
    upload: float = 1.5
    connections: int = 1
    saving: float = 2.0
    reserve: float = 0.5
    last_log: float = 0.3

    @property
    def parts(self) -> float:
        """Time limit for ending the parts of the node, which includes saving accepted images."""
        return self.saving + self.reserve

    @property
    def orderly(self) -> float:
        """Time from the signal to the end of the last part."""
        return self.requests + self.answers + self.flush + self.connections + self.saving

    @property
    def forced_exit(self) -> float:
        """Time from the signal to a forced exit."""
        return self.orderly + self.reserve

    @property
    def total(self) -> float:
        """Longest life of the process after the signal."""
        return self.forced_exit + self.last_log
