"""`wholebody labelstudio`: commands for labeling teams and dataset engineers.

Modules that load slowly are imported when a command runs, so that `--help` answers at once.
"""

import logging
from functools import partial

import typer

from .evaluate import evaluate
from .export import export
from .import_labels import import_labels
from .preannotate import preannotate
from .queue import queue
from .send_to_loop import send_to_loop
from .setup import config, import_images, init

app = typer.Typer(
    help='Label Studio: projects, preannotation, queues, datasets, quality.',
    no_args_is_help=True,
    rich_markup_mode='markdown',
)
app.command('config')(config)
app.command('init')(init)
app.command('import')(import_images)
app.command('preannotate')(preannotate)
app.command('queue')(queue)
app.command('export')(export)
app.command('send-to-loop')(send_to_loop)
app.command('import-labels')(import_labels)
app.command('evaluate')(evaluate)


@app.callback()
def _group(context: typer.Context) -> None:
    logging.disable(logging.INFO)  # learning_loop_node configures logging and logs a greeting during import
    context.call_on_close(partial(logging.disable, logging.NOTSET))
