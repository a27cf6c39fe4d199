"""The place of gevent.resolver.dnspython, which is not there yet."""

raise ImportError(
    "weft.gevent has no resolver that asks by dnspython yet; it has 'thread', the default, and 'block'. "
    "The setting 'resolver', or GEVENT_RESOLVER, chooses.",
    name=__name__,
)
