"""MkDocs hook that adds the reference pages, which are written from the code at build time."""

import logging

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the pages in `docs/`."""
    logging.disable(logging.ERROR)  # learning_loop_node logs its settings when it is imported and when a node is built
    from docs.reference_pages import reference_pages

    pages = reference_pages()
    logging.disable(logging.NOTSET)
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files
