"""The limit on open files and connections that the operating system sets for this process."""

import logging

log = logging.getLogger('wholebody.node')


def raise_limit(needed: int) -> int:
    """Raise the limit on open files to at least this number, if the system's hard limit allows it.

    :return: the limit in force, which may be lower or higher; the number itself on a system without such limits.
    """
    try:
        import resource
    except ImportError:  # Windows
        return needed
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return needed
    if limit < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < needed:
        log.warning('the system allows %d open files; %d are better: raise `ulimit -Hn`', limit, needed)
    return limit
