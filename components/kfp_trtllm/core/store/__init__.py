"""Stores, by URL scheme. To add one: a module with one class that implements `base.Store`, and its line here."""

from kfp_trtllm.core.plugins import check, load
from kfp_trtllm.core.store.base import Store
from kfp_trtllm.errors import InvalidSpec

STORES = {
    "file": "kfp_trtllm.core.store.file:FileStore",
}


def check_url(url: str) -> str:
    """Returns the URL when its form is right, without any I/O; InvalidSpec otherwise."""
    scheme, found, rest = url.partition("://")
    if not found:
        raise InvalidSpec(f"store must be a URL such as file:///data/store, but got {url!r}.")
    check("store scheme", scheme, STORES)
    if not rest:
        raise InvalidSpec(f"store must name a place after {scheme}://, but got {url!r}.")
    if scheme == "file" and not rest.startswith(("/", "~")):
        raise InvalidSpec(
            f"a file:// store must be an absolute path (file:///data/store) or start with ~, but got {url!r}."
        )
    return url


def open_store(url: str) -> Store:
    """The store at a URL; it is made when it doesn't exist yet."""
    scheme, _, rest = check_url(url).partition("://")
    store: Store = load("store scheme", scheme, STORES)(rest)
    return store
