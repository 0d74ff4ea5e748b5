"""The parts of a node, and how they are put together."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from detector.api.in_flight import InFlight
from detector.api.middleware.access import AccessPolicy
from detector.api.middleware.drain import Drain
from detector.api.middleware.limits import MIB
from detector.engine import trial
from detector.engine.pose_engine import EngineOptions
from detector.engine.verification import verify
from detector.loop import client
from detector.loop.following import Following
from detector.loop.model_updates import ModelUpdater
from detector.ls_adapter import LabelStudioBackend
from detector.models.library import ModelLibrary
from detector.models.pulling import ModelPull
from detector.models.store import ModelStore
from detector.observability.event_loop_lag import EventLoopLag
from detector.observability.life import Life
from detector.observability.metrics import Metrics
from detector.outbox.collector import make_collector
from detector.outbox.outbox import open_outbox
from detector.service import About, Detection, Models, OutboxControl, Service, Uploads
from detector.serving.first_model import FirstModel
from detector.serving.inference import Inference
from detector.serving.model_serving import ModelServing, ServingModel
from detector.settings import Settings
from detector.system.shutdown_budget import ShutdownBudget


class Parts:
    """The parts of one node; each is given the others that it needs. Nothing is started yet.

    :param on_model: called when the active model has changed, see `ModelServing`.
    :param on_state: called when the target, a mode or an error has changed, see `Following`.
    :param send_status: sends a status report to the Loop.
    :param is_muted: returns True while nothing may be sent to the Loop.
    :raises InvalidSettings: an address, a token or a file of certificates cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_model: Callable[[ServingModel | None], None],
        on_state: Callable[[Following], None],
        send_status: Callable[[], Awaitable[None]],
        is_muted: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self._on_model = on_model
        self.metrics, self.life = Metrics(), Life()
        self.event_loop_lag = EventLoopLag(self.metrics)
        self.access_policy = AccessPolicy(settings)
        self.in_flight = InFlight(settings.max_in_flight_mib * MIB)
        self.shutdown_budget = ShutdownBudget()
        self.drain = Drain(self.shutdown_budget)
        self.communicator = client.communicator(settings)
        self.store = ModelStore(settings.data_folder)
        self.serving = ModelServing(settings, metrics=self.metrics, life=self.life, on_change=self._change_model)
        self.inference = Inference(
            settings,
            lambda: self.serving.active().engine,
            lock=self.serving.lock,
            metrics=self.metrics,
            recovery=self.serving.recovery,
            is_exchanging=lambda: self.serving.exchanging,
        )
        self.updates = ModelUpdater(
            self.store,
            files_url=None if settings.loop_url is None else f'/api{client.project_path(settings)}/models',
            connect=lambda: client.connected_client(self.communicator),
            switch=self.serving.switch,
            try_out=partial(trial.ensure, options=EngineOptions.of(settings)),
            keep=settings.keep_models,
            on_refusal=self._count_refusal,
            is_serving=lambda: self.serving.current() is not None,
        )
        self.following = Following(
            settings,
            self.communicator,
            self.store,
            self.updates,
            self.serving,
            send_status=send_status,
            on_change=on_state,
            is_ending=lambda: self.drain.begun,
        )
        self.outbox = open_outbox(settings, held=is_muted)
        self.collector = make_collector(self.outbox, settings)
        library = ModelLibrary(self.store, settings.model_catalogue)
        verified = partial(verify, options=EngineOptions.of(settings))
        self.pull = ModelPull(library, verify=verified, use=self._use, on_refusal=self._count_refusal)
        self.first = FirstModel(settings, self.store, self.serving, self.pull, on_ended=self.following.leave_startup)
        models = Models(self.serving, self.store, self.following, self.first)
        self.label_studio = LabelStudioBackend(settings, models, self.inference, self.outbox, self.metrics)
        self.service = Service(
            detection=Detection(self.inference, self.collector, notice=models.notice),
            uploads=Uploads(self.serving, self.collector),
            models=models,
            library=library,
            pull=self.pull,
            outbox=OutboxControl(self.outbox),
            about=About(models, self.first, self.serving, self.following, self.life, self._sections()),
        )

    def _change_model(self, model: ServingModel | None) -> None:
        self.inference.forget_streams()
        self.label_studio.follow_model()
        self._on_model(model)

    async def _use(self, version: str) -> None:
        await self.service.models.set_mode(version)

    def _count_refusal(self) -> None:
        self.metrics.switched('refused')

    def _sections(self) -> dict[str, Callable[[], dict[str, Any] | None]]:
        """Return the functions that describe the parts in `/about`, by key."""
        return {
            'update': self.updates.about,
            'pull': self.pull.about,
            'outbox': self.outbox.about,
            'label_studio': self.label_studio.about,
            'requests': self.inference.admission.about,
            'process': self.life.about,
        }
