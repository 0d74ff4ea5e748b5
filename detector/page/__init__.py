"""The page at `/ui`, for people: NiceGUI, which the extra `page` brings.

lazy.py        loads NiceGUI when somebody asks for the page for the first time
pictures.py    small pictures with skeletons
data.py        what the page shows, as REST routes below /ui
node_page.py   the node's page; model_card.py, load_card.py, outbox_card.py are its cards
look.py        the look and the elements that it shares with the mock Loop's page
skeleton_view.js   draws skeletons over an image, in the browser
"""

from typing import TYPE_CHECKING

from .lazy import LazyPage

if TYPE_CHECKING:
    from detector.node.wholebody_node import WholebodyNode


def install(node: 'WholebodyNode') -> None:
    """Add `/ui` to a node; without the extra it answers 404 and says what to install."""

    def build(page: LazyPage) -> None:
        from . import data
        from .node_page import build as build_page

        page.app.state.node = node
        page.app.include_router(data.router)
        build_page(node)

    LazyPage(build, title=node.settings.node_name).install(node)
