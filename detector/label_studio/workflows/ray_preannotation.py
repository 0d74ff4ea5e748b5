"""Bulk preannotation on Ray Data, with an engine per worker, on one machine or on a cluster.

Tasks and predictions are passed as JSON, since Ray's tables need one type for all tasks' data.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, aclosing
from importlib import import_module
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from detector.errors import ExtraMissing, WholebodyError
from detector.label_studio.backend.preannotation import Outcome
from detector.label_studio.labels.config import LabelingConfig
from detector.label_studio.server.client import Connection
from detector.label_studio.server.project import Json
from detector.models.archive import write_archive
from detector.models.package import MODEL_JSON, ModelPackage, unpack_package
from detector.settings import Settings
from detector.system.scratch import scratch_folder

from .bulk_preannotation import LocalPredictor

_BATCH_TASKS: Final = 16
"""Number of tasks that a worker receives at a time."""
_CPUS_PER_WORKER: Final = 4
_END: Final = object()


class RayPredictor:
    """Makes predictions with Ray; a context manager.

    Every machine needs the same version of this project with the extra `ray`, and must reach Label Studio at the
    address of the settings. The model is sent to them.

    :param workers: number of workers, each with an engine and its share of the CPUs; None: one per 4 CPUs.
    :param address: address of a cluster; None: start Ray on this machine, on the loopback address only.
    :raises ExtraMissing: the extra `ray` is not installed.
    """

    def __init__(
        self, settings: Settings, package: ModelPackage, *, workers: int | None = None, address: str | None = None
    ) -> None:
        os.environ['RAY_USAGE_STATS_ENABLED'] = '0'  # no usage statistics leave this machine
        # under `uv run`, Ray would start workers with `uv run` in a copy of the working folder, without the extra
        os.environ['RAY_ENABLE_UV_RUN_RUNTIME_ENV'] = '0'
        try:
            self._ray = import_module('ray')
            import_module('ray.data')
        except ImportError:
            raise ExtraMissing('ray[data]', extra='ray') from None
        self._settings = settings
        self._package = package
        self._workers = workers
        self._address = address

    def __enter__(self) -> Self:
        local = {'include_dashboard': False, '_node_ip_address': '127.0.0.1'} if self._address is None else {}
        self._ray.init(address=self._address or 'local', log_to_driver=False, logging_level='ERROR', **local)
        self._ray.data.DataContext.get_current().enable_progress_bars = False
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    async def outcomes(self, tasks: Sequence[Json], config: LabelingConfig) -> AsyncGenerator[tuple[int, Outcome]]:
        """Yield the index of each task with its prediction or error, in order of completion."""
        if not tasks:
            return
        rows = await asyncio.to_thread(self._rows, tasks, config)
        while (row := await asyncio.to_thread(next, rows, _END)) is not _END:
            assert isinstance(row, dict)
            failure = row['failure']
            outcome: Outcome = WholebodyError(failure) if failure else json.loads(row['prediction'])
            yield int(row['index']), outcome

    def _rows(self, tasks: Sequence[Json], config: LabelingConfig) -> Iterator[dict[str, Any]]:
        cpus = int(self._ray.cluster_resources().get('CPU', 1))
        workers = self._workers or max(1, cpus // _CPUS_PER_WORKER)
        dataset = self._ray.data.from_items(
            [{'index': index, 'task': json.dumps(task)} for index, task in enumerate(tasks)],
            override_num_blocks=max(workers, -(-len(tasks) // _BATCH_TASKS)),
        )
        package = self._ray.put(_packed(self._package))
        predicted = dataset.map_batches(
            _Worker,
            fn_constructor_args=(self._settings, package, config),
            batch_size=_BATCH_TASKS,
            concurrency=workers,
            num_cpus=max(1, cpus // workers),
        )
        rows: Iterator[dict[str, Any]] = iter(predicted.iter_rows())
        return rows


class _Worker:
    """A process of Ray with an engine and an event loop for fetching images."""

    def __init__(self, settings: Settings, package: Any, config: LabelingConfig) -> None:
        """:param package: reference to the bytes of a zip."""
        self._config = config
        self._scratch = ExitStack()
        folder = self._scratch.enter_context(scratch_folder())
        archive = folder / 'package.zip'
        archive.write_bytes(import_module('ray').get(package))
        unpacked = folder / 'package'
        unpacked.mkdir()
        self._loop = asyncio.new_event_loop()
        self._predictor = self._loop.run_until_complete(_made(settings, unpack_package(archive, unpacked)))

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._loop.run_until_complete(self._predict(batch))

    async def _predict(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        tasks = [json.loads(task) for task in batch['task']]
        predictions = np.full(len(tasks), '', dtype=object)
        failures = np.full(len(tasks), '', dtype=object)
        async with aclosing(self._predictor.outcomes(tasks, self._config)) as outcomes:
            async for place, outcome in outcomes:
                if isinstance(outcome, BaseException):
                    failures[place] = str(outcome) or repr(outcome)
                else:
                    predictions[place] = json.dumps(outcome)
        return {'index': batch['index'], 'prediction': predictions, 'failure': failures}


async def _made(settings: Settings, package: ModelPackage) -> LocalPredictor:
    """Create the predictor inside the event loop that its connections belong to."""
    return LocalPredictor(settings, package, Connection.of(settings))


def _packed(package: ModelPackage) -> bytes:
    with scratch_folder() as folder:
        archive = folder / 'package.zip'
        files = (package.folder / MODEL_JSON, package.detector_path, package.estimator_path)
        write_archive(archive, {path.name: path for path in files})
        return archive.read_bytes()
