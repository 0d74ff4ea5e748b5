"""Serving a node with uvicorn, its end, and its logging."""

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
from typing import TYPE_CHECKING, Final

import uvicorn

from detector.errors import FolderInUse, InvalidSettings
from detector.observability.logs import ConsoleFormatter, JsonFormatter, catch_what_is_not_logged
from detector.observability.secrecy import hide_secrets
from detector.settings import Settings
from detector.system.folder_lock import FolderLock

from . import shutdown

if TYPE_CHECKING:
    from .wholebody_node import WholebodyNode

log = logging.getLogger('wholebody.node')

LOCK_FILE: Final = 'node.lock'
"""In DATA_FOLDER; a node holds it while it lives."""
END_SECONDS: Final = 7.0
"""From a signal to the end of the process, whatever hangs; Docker kills after 10."""
CONNECTION_SECONDS: Final = 1
"""For clients that do not read their answers."""
_SAME_SIGNAL_SECONDS: Final = 0.2
"""A signal to a process group comes twice where a parent, as `uv run`, passes it on."""
_LAST_WORDS_SECONDS: Final = 0.3


def serve(settings: Settings) -> None:
    """Serve a node until SIGTERM or SIGINT; the process then ends with status 0.

    :raises InvalidSettings: DATA_FOLDER cannot be used, or another node uses it.
    """
    for number in uvicorn.server.HANDLED_SIGNALS:
        signal.signal(number, lambda *_: end_at_once())
    from detector import page

    from .wholebody_node import WholebodyNode

    configure_logging(settings)  # after learning_loop_node, whose import replaces all handlers
    if settings.debug:
        os.environ['PYTHONASYNCIODEBUG'] = '1'
    node = WholebodyNode(settings, _lock(settings))
    page.install(node)
    gc.collect()
    gc.freeze()  # the modules stay for good: looking through them stops a busy node for 70 ms every few seconds
    config = uvicorn.Config(
        node,
        host=settings.node_host,
        port=settings.backend_port,
        lifespan='on',
        loop='asyncio' if settings.debug else 'auto',  # uvloop does not tell what is slow
        log_config=None,
        ws_max_size=settings.max_frame_mib * 1024**2,
        ws_per_message_deflate=False,  # strangers' small frames would be inflated to MAX_FRAME_MIB before anybody looks
        timeout_graceful_shutdown=CONNECTION_SECONDS,
    )
    _Server(config, node).run()
    end_at_once()


def _lock(settings: Settings) -> FolderLock:
    settings.make_data_folder()
    lock = FolderLock(settings.data_folder / LOCK_FILE)
    try:
        lock.acquire()
    except FolderInUse as error:
        raise InvalidSettings(f'DATA_FOLDER={settings.data_folder}: {error}; give each node its own') from None
    return lock


class _Server(uvicorn.Server):
    """Lets requests end before it closes their connections, and ends the process in any case."""

    def __init__(self, config: uvicorn.Config, node: 'WholebodyNode') -> None:
        super().__init__(config)
        self._node = node
        self._signals: SimpleQueue[int] = SimpleQueue()  # whose `put` signal handlers may call
        threading.Thread(target=_end_in_time, args=(self._signals,), name='end', daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._node.drain.begin()
        self.should_exit = True
        self._signals.put(sig)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit as failure:  # the port is taken: do not wait for the model that is being loaded
            end_at_once(int(failure.code or 0))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await shutdown.finish_requests(self._node)
        await super().shutdown(sockets)


def _end_in_time(signals: 'SimpleQueue[int]') -> None:
    """End the process when its time is up after a signal, or at a second signal."""
    signals.get()
    begun = time.monotonic()
    why = f'the end took longer than {END_SECONDS:g} seconds'
    while (left := begun + END_SECONDS - time.monotonic()) > 0:
        try:
            signals.get(timeout=left)
        except Empty:
            break
        if time.monotonic() - begun > _SAME_SIGNAL_SECONDS:
            why = 'a second signal came'
            break
    threading.Timer(_LAST_WORDS_SECONDS, os._exit, (0,)).start()  # the log may be what hangs
    log.warning('ended at once: %s', why)
    end_at_once()


def end_at_once(status: int = 0) -> None:
    """End without waiting for threads: a disk that stalls shall not keep the process."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def configure_logging(settings: Settings) -> None:
    """One line per message on standard error, from `settings.effective_log_level` upwards."""
    level = settings.effective_log_level
    if settings.log_format == 'json':
        catch_what_is_not_logged()
    chatter = level if settings.debug or settings.loop_host is not None else 'WARNING'
    logging.config.dictConfig(
        {
            'version': 1,
            'disable_existing_loggers': False,
            'formatters': {'console': {'()': ConsoleFormatter}, 'json': {'()': JsonFormatter}},
            'filters': {'fit': {'()': _FitForDetectors}},
            'handlers': {
                'stderr': {'class': 'logging.StreamHandler', 'formatter': settings.log_format, 'filters': ['fit']}
            },
            'root': {'level': 'DEBUG' if settings.debug else 'WARNING', 'handlers': ['stderr']},
            'loggers': {
                'wholebody': {'level': level},
                'uvicorn': {'level': level},
                'uvicorn.error': {'level': 'INFO' if level == 'DEBUG' else level},  # it writes headers and frames
                'Node': {'level': chatter, 'handlers': [], 'propagate': True},
                'loop_communication': {'level': chatter},
                'uvicorn.access': {'level': 'DEBUG' if settings.debug else 'WARNING'},
                'learning_loop_node.helpers.environment_reader': {'level': 'ERROR'},  # lists what is not set
            },
        }
    )
    hide_secrets(settings)


class _FitForDetectors(logging.Filter):
    """Drops what learning_loop_node says at every start and what only matters to trainers."""

    def filter(self, record: logging.LogRecord) -> bool:
        return 'jpeginfo' not in str(record.msg)
