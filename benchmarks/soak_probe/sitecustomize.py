"""Python imports this at its start where this folder is on PYTHONPATH: each second it notes how many tasks asyncio has.

Put into the node's process by `benchmarks.soak`, since only that process knows its tasks.
"""

import asyncio.tasks
import os
import threading
import time
from pathlib import Path


def _watch(path: Path) -> None:
    while True:
        try:
            count = sum(not task.done() for task in list(asyncio.tasks._all_tasks))  # type: ignore[attr-defined]
        except RuntimeError:  # the set has changed meanwhile
            continue
        partial = path.with_suffix('.partial')
        partial.write_text(str(count))
        partial.replace(path)
        time.sleep(1)


if 'SOAK_TASKS_FILE' in os.environ:
    threading.Thread(target=_watch, args=(Path(os.environ['SOAK_TASKS_FILE']),), daemon=True).start()
