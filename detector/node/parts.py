"""The parts of a node, and how they are put together."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from learning_loop_node.loop_communication import LoopCommunicator

from detector.api.in_flight import InFlight
from detector.api.middleware.access import AccessPolicy
from detector.api.middleware.drain import Drain
from detector.api.middleware.limits import MIB
from detector.loop import client
from detector.loop.following import Following
from detector.loop.model_updates import ModelUpdater
from detector.ls_adapter import LabelStudioBackend
from detector.models.store import ModelStore
from detector.observability.event_loop_lag import EventLoopLag
from detector.observability.life import Life
from detector.observability.metrics import Metrics
from detector.outbox.collector import Collector, make_collector
from detector.outbox.outbox import Outbox, open_outbox
from detector.service import About, Detection, Models, OutboxControl, Service, Uploads
from detector.serving.inference import Inference
from detector.serving.model_serving import ModelServing, ServingModel
from detector.settings import Settings
from detector.system.shutdown_budget import ShutdownBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one node; each was given the others that it needs."""

    settings: Settings
    access_policy: AccessPolicy
    metrics: Metrics
    event_loop_lag: EventLoopLag
    shutdown_budget: ShutdownBudget
    drain: Drain
    in_flight: InFlight
    communicator: LoopCommunicator
    serving: ModelServing
    inference: Inference
    outbox: Outbox
    collector: Collector
    updates: ModelUpdater
    following: Following
    label_studio: LabelStudioBackend
    service: Service


def build(
    settings: Settings,
    *,
    on_model: Callable[[ServingModel | None], None],
    on_state: Callable[[Following], None],
    send_status: Callable[[], Awaitable[None]],
    is_muted: Callable[[], bool],
) -> Parts:
    """Put the parts of a node together; nothing is started yet.

    :param on_model: see `ModelServing`.
    :param on_state: called when the target, a mode or an error has changed, see `Following`.
    :param send_status: sends a status report to the Loop.
    :param is_muted: returns True while nothing may be sent to the Loop.
    :raises InvalidSettings: an address, a token or a file of certificates cannot be used.
    """
    metrics, life, budget = Metrics(), Life(), ShutdownBudget()
    drain = Drain(budget)
    communicator = client.communicator(settings)
    store = ModelStore(settings.data_folder)

    def change_model(model: ServingModel | None) -> None:
        inference.forget_streams()
        on_model(model)

    def end_startup() -> None:
        following.leave_startup()

    serving = ModelServing(
        settings,
        store,
        metrics=metrics,
        life=life,
        on_change=change_model,
        on_started=end_startup,
    )
    inference = Inference(
        settings,
        lambda: serving.active().engine,
        lock=serving.lock,
        metrics=metrics,
        recovery=serving.recovery,
        is_exchanging=lambda: serving.exchanging,
    )
    updates = ModelUpdater(
        store,
        files_url=None if settings.loop_url is None else f'/api{client.project_path(settings)}/models',
        connect=lambda: client.connected_client(communicator),
        switch=serving.switch,
        keep=settings.keep_models,
        on_refusal=lambda: metrics.switched('refused'),
        is_serving=lambda: serving.current() is not None,
    )
    following = Following(
        settings,
        communicator,
        store,
        updates,
        serving,
        send_status=send_status,
        on_change=on_state,
        is_ending=lambda: drain.begun,
    )
    outbox = open_outbox(settings, held=is_muted)
    collector = make_collector(outbox, settings)
    models = Models(serving, store, following)
    label_studio = LabelStudioBackend(settings, models, inference, outbox, metrics)
    sections = {
        'update': updates.about,
        'outbox': outbox.about,
        'label_studio': label_studio.about,
        'requests': inference.admission.about,
        'process': life.about,
    }
    service = Service(
        detection=Detection(inference, collector),
        uploads=Uploads(serving, collector),
        models=models,
        outbox=OutboxControl(outbox),
        about=About(serving, following, life, sections),
    )
    return Parts(
        settings=settings,
        access_policy=AccessPolicy(settings),
        metrics=metrics,
        event_loop_lag=EventLoopLag(metrics),
        shutdown_budget=budget,
        drain=drain,
        in_flight=InFlight(settings.max_in_flight_mib * MIB),
        communicator=communicator,
        serving=serving,
        inference=inference,
        outbox=outbox,
        collector=collector,
        updates=updates,
        following=following,
        label_studio=label_studio,
        service=service,
    )
