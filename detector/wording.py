"""Words for people."""


def counted(count: int, noun: str) -> str:
    """A number and what is counted: `1 image`, `2 images`."""
    return f'{count} {noun}{"" if count == 1 else "s"}'
