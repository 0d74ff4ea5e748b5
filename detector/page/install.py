"""The page at `/ui`, for people: NiceGUI, which the extra `page` brings.

lazy.py        loads NiceGUI when a client requests the page for the first time
pictures.py    thumbnails with skeletons
routes.py      REST routes below /ui: poses and pictures
context.py     the parts of the node that the page needs
node_page.py   the node's page; model_card.py, load_card.py, outbox_card.py are its cards
pull_control.py   downloads a published model; a part of the model's card
elements.py    the style, and the elements that the mock Loop's page uses too
skeleton_view.js   draws skeletons over an image, in the browser
"""

from fastapi import FastAPI

from .context import PageContext
from .lazy import LazyPage


def install_page(app: FastAPI, context: PageContext) -> None:
    """Add `/ui` to an app. Without the extra `page` it answers 404 and says what to install."""

    def build(page: LazyPage) -> None:
        from . import routes
        from .node_page import build as build_page

        page.app.include_router(routes.create_router(context.service.detection, context.outbox, context.settings))
        build_page(context)

    LazyPage(build, title=context.settings.node_name).install(app)
