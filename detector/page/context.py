"""The parts of a node that its page needs."""

from typing import Protocol

from detector.api.middleware.access import AccessPolicy
from detector.loop.following import Following
from detector.loop.model_updates import ModelUpdater
from detector.outbox.outbox import Outbox
from detector.service import Service
from detector.serving.inference import Inference
from detector.serving.model_serving import ModelServing
from detector.settings import Settings


class PageContext(Protocol):
    """The parts of a node that its page shows and controls."""

    settings: Settings
    access_policy: AccessPolicy
    service: Service
    serving: ModelServing
    following: Following
    updates: ModelUpdater
    inference: Inference
    outbox: Outbox
