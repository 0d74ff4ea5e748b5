"""Serves a node with uvicorn, sets up its logging, and ends the process in time."""

import asyncio
import gc
import logging.config
import os
import signal
import socket
import sys
import threading
import time
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Final, cast

import uvicorn

from detector.errors import FolderInUse, InvalidSettings
from detector.observability.logs import ClientFaults, ConsoleFormatter, JsonFormatter, log_uncaught_errors
from detector.observability.secrecy import hide_secrets
from detector.settings import Settings
from detector.system.folder_lock import NODE_LOCK, FolderLock
from detector.system.open_files import raise_limit
from detector.system.opencv import opencv_fault
from detector.system.shutdown_budget import ShutdownBudget

from .connections import FILES, Connection, Connections, connections_needed

if TYPE_CHECKING:
    from detector.api.middleware.drain import Drain
    from detector.observability.metrics import Metrics

    from .shutdown import NodeShutdown

log = logging.getLogger('wholebody.node')

_LOCK_SECONDS: Final = 0.2
"""Time to wait for the lock of DATA_FOLDER, which commands hold for a moment to see if a node runs, in seconds."""
_TICKS_PER_SECOND: Final = 10
"""Number of times that uvicorn calls `on_tick` in a second."""
_SWITCH_SECONDS: Final = 0.0002
"""Time after which a thread gives the interpreter to another one, in seconds. An inference takes the interpreter some
sixty times; with Python's 5 ms it could wait 0.3 seconds beside a flood of events or the parsing of a large body."""
_LOCK_CHECK_SECONDS: Final = 2.0
"""Interval between two checks of the lock of DATA_FOLDER, in seconds."""
SAME_SIGNAL_SECONDS: Final = 0.2
"""Time in which a repeated signal counts as the same one, in seconds. A signal can arrive twice, because a parent such
as `uv run` forwards it."""


def serve(settings: Settings) -> None:
    """Serve a node until SIGTERM or SIGINT; the process then ends with status 0.

    :raises InvalidSettings: DATA_FOLDER cannot be used, or another node uses it.
    """
    for number in uvicorn.server.HANDLED_SIGNALS:
        signal.signal(number, lambda *_: end_at_once())
    logging.disable(logging.INFO)  # learning_loop_node logs a line on import, in a format of its own
    from detector.page.install import install_page

    from .wholebody_node import WholebodyNode

    logging.disable(logging.NOTSET)
    configure_logging(settings)  # after the import of learning_loop_node, which replaces all handlers
    if (fault := opencv_fault()) is not None:
        log.warning('%s', fault)
    if settings.debug:
        os.environ['PYTHONASYNCIODEBUG'] = '1'
    lock = _lock(settings)
    node = WholebodyNode(settings, lock)
    install_page(node, node.parts)
    gc.collect()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.freeze()  # modules are permanent; traversing them stops a busy node for 70 ms every few seconds
    connections = _connections(settings, node.parts.metrics)
    config = uvicorn.Config(
        node,
        host=settings.node_host,
        port=settings.backend_port,
        lifespan='on',
        loop='asyncio' if settings.debug else 'auto',  # uvloop does not report slow callbacks
        log_config=None,
        http=cast(type[asyncio.Protocol], connections.protocol),  # uvicorn only calls it
        ws='websockets-sansio',  # what `auto` takes; `Connections` reads its state
        ws_max_size=settings.max_frame_mib * 1024**2,
        ws_per_message_deflate=False,  # a small compressed frame could inflate to MAX_FRAME_MIB before authentication
        timeout_graceful_shutdown=node.shutdown.budget.connections,
    )
    if not settings.use_backdoor_controls:  # `POST /reset` deletes the folder
        threading.Thread(target=_end_without_lock, args=(lock,), name='lock', daemon=True).start()
    _Server(config, node.parts.drain, node.shutdown, connections).run()
    end_at_once(int(lock.is_lost()))


def _end_without_lock(lock: FolderLock) -> None:
    """Start the shutdown when the lock of DATA_FOLDER is lost, because another node may use the folder from then on."""
    while not lock.is_lost():
        time.sleep(_LOCK_CHECK_SECONDS)
    log.error(
        '%s was removed or replaced while this node runs; the node ends, since another one may use the folder',
        lock.path,
    )
    os.kill(os.getpid(), signal.SIGTERM)


def _connections(settings: Settings, metrics: 'Metrics') -> Connections:
    wanted = connections_needed(settings)
    connections = Connections(
        limit=min(wanted, raise_limit(wanted + FILES) - FILES),
        seconds=settings.body_seconds,
        unread_bytes=settings.max_in_flight_mib * 1024**2,
        on_end=metrics.connection_ended,
    )
    metrics.count_connections(lambda: len(connections.open))
    return connections


def _lock(settings: Settings) -> FolderLock:
    settings.make_data_folder()
    lock = FolderLock(settings.data_folder / NODE_LOCK)
    try:
        lock.acquire(seconds=_LOCK_SECONDS)
    except FolderInUse as error:
        raise InvalidSettings(f'DATA_FOLDER={settings.data_folder}: {error}; give each node its own') from None
    return lock


class _Server(uvicorn.Server):
    """Waits for running requests before it closes their connections, and ends the process in any case."""

    def __init__(
        self, config: uvicorn.Config, drain: 'Drain', shutdown: 'NodeShutdown', connections: Connections
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._shutdown = shutdown
        self._connections = connections
        connections.open = cast(set[Connection], self.server_state.connections)  # `http` and `ws` name the classes
        self._signals: SimpleQueue[int] = SimpleQueue()  # signal handlers may call its `put`
        arguments = (self._signals, shutdown.budget)
        threading.Thread(target=_end_in_time, args=arguments, name='end', daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._drain.begin()
        self.should_exit = True
        self._signals.put(sig)

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_SECOND == 0:
            self._connections.check(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit as failure:  # the port is taken: do not wait until the model is loaded
            end_at_once(int(failure.code or 0))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._shutdown.finish_requests()
        await super().shutdown(sockets)


def _end_in_time(signals: 'SimpleQueue[int]', budget: ShutdownBudget) -> None:
    """End the process when its time is up after a signal, or at a second signal."""
    signals.get()
    begun = time.monotonic()
    why = f'the shutdown took longer than {budget.forced_exit:g} seconds'
    while (left := begun + budget.forced_exit - time.monotonic()) > 0:
        try:
            signals.get(timeout=left)
        except Empty:
            break
        if time.monotonic() - begun > SAME_SIGNAL_SECONDS:
            why = 'a second signal arrived'
            break
    threading.Timer(budget.last_log, os._exit, (0,)).start()  # logging itself may hang
    log.warning('forced exit: %s', why)
    end_at_once()


def end_at_once(status: int = 0) -> None:
    """End the process without waiting for threads, because a stalled disk must not keep it alive."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def configure_logging(settings: Settings) -> None:
    """Log one line per message to standard error, from `settings.effective_log_level` upwards."""
    level = settings.effective_log_level
    if settings.log_format == 'json':
        log_uncaught_errors()
    chatter = level if settings.debug or settings.loop_host is not None else 'WARNING'
    logging.config.dictConfig(
        {
            'version': 1,
            'disable_existing_loggers': False,
            'formatters': {'console': {'()': ConsoleFormatter}, 'json': {'()': JsonFormatter}},
            'filters': {'detector': {'()': _DetectorOnly}, 'clients': {'()': ClientFaults}},
            'handlers': {
                'stderr': {'class': 'logging.StreamHandler', 'formatter': settings.log_format, 'filters': ['detector']}
            },
            'root': {'level': 'DEBUG' if settings.debug else 'WARNING', 'handlers': ['stderr']},
            'loggers': {
                'wholebody': {'level': level},
                'uvicorn': {'level': level},
                # the DEBUG lines of uvicorn.error contain headers and frames
                'uvicorn.error': {'level': 'INFO' if level == 'DEBUG' else level, 'filters': ['clients']},
                # with a level of their own, the libraries add no handlers, whose lines have another format
                'engineio.server': {'level': 'ERROR', 'filters': ['clients']},
                'engineio.client': {'level': 'ERROR'},
                'socketio.server': {'level': 'ERROR'},
                'socketio.client': {'level': 'ERROR'},
                'Node': {'level': chatter, 'handlers': [], 'propagate': True},
                'loop_communication': {'level': chatter},
                'uvicorn.access': {'level': 'DEBUG' if settings.debug else 'WARNING'},
                'learning_loop_node.helpers.environment_reader': {'level': 'ERROR'},  # lists the unset variables
            },
        }
    )
    hide_secrets(settings)


class _DetectorOnly(logging.Filter):
    """Drops the lines of learning_loop_node that only matter to trainers."""

    def filter(self, record: logging.LogRecord) -> bool:
        return 'jpeginfo' not in str(record.msg)
