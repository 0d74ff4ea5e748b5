"""Serving a node with uvicorn, and its logging."""

import gc
import logging.config
import os
import signal
import sys

import uvicorn

from .logs import ConsoleFormatter, JsonFormatter, catch_what_is_not_logged
from .secrecy import hide_secrets
from .settings import Settings

SHUTDOWN_SECONDS = 2
"""For requests that run; then the outbox has its seconds, and all of it stays below 5."""


def serve(settings: Settings) -> None:
    """Serve a node until SIGTERM or SIGINT; the process then ends with status 0."""
    from . import page
    from .node import WholebodyNode

    # uvicorn raises the signal once more when it is done
    signal.signal(signal.SIGTERM, lambda *_: _end())
    configure_logging(settings)  # after learning_loop_node, whose import replaces all handlers
    if settings.debug:
        os.environ['PYTHONASYNCIODEBUG'] = '1'
    node = WholebodyNode(settings)
    page.install(node)
    gc.collect()
    gc.freeze()  # the modules stay for good: looking through them stops a busy node for 70 ms every few seconds
    uvicorn.run(
        node,
        host=settings.node_host,
        port=settings.backend_port,
        lifespan='on',
        loop='asyncio' if settings.debug else 'auto',  # uvloop does not tell what is slow
        log_config=None,
        ws_max_size=settings.max_frame_mib * 1024**2,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    _end()


def _end() -> None:
    """End without waiting for threads: a disk that stalls shall not keep the process."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


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
