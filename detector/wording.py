"""Wording of messages."""


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: `1 image`, `2 images`, `2 boxes`."""
    ending = 'es' if noun.endswith('x') else 's'
    return f'{count} {noun}{"" if count == 1 else ending}'
