"""`wholebody labelstudio`: what labeling teams and dataset engineers need beside the backend.

Commands import what they need themselves, so that `wholebody --help` is quick.
"""

import logging
from functools import partial

import typer

from .evaluate import evaluate
from .export import export, import_labels
from .preannotate import preannotate
from .queue import queue
from .setup import config, import_images, init

app = typer.Typer(help='Label Studio: projects, preannotation, queues, datasets, quality.', no_args_is_help=True)
app.command('config')(config)
app.command('init')(init)
app.command('import')(import_images)
app.command('preannotate')(preannotate)
app.command('queue')(queue)
app.command('evaluate')(evaluate)
app.command('export')(export)
app.command('import-labels')(import_labels)


@app.callback()
def _group(context: typer.Context) -> None:
    # learning_loop_node configures logging when it is imported, and greets
    logging.disable(logging.INFO)
    context.call_on_close(partial(logging.disable, logging.NOTSET))
