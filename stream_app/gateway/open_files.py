"""How many files this process may have open: each connection is one."""

import resource

from stream_app.logging_setup import get_logger

log = get_logger("gateway")


def allow_open_files(count: int) -> None:
    """Raise our own limit to `count`, as far as the system lets us; many systems begin with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < count:
        log.warning("few_open_files", allowed=wanted, wanted=count)
