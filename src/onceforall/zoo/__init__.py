"""Published networks: their table, their files, and the loaders that return them."""

from onceforall.zoo.download import cache_folder, cached, download, fetch, git_blob_sha1
from onceforall.zoo.entries import Figures, RemoteFile, ZooEntry, find_entry, zoo_entries
from onceforall.zoo.load import (
    Preprocessing,
    ZooNet,
    load_config_net,
    load_proxylessnas,
    load_specialized,
    load_static,
    load_supernet,
)
from onceforall.zoo.verify import Check, entry_costs, verify

__all__ = [
    "Check",
    "Figures",
    "Preprocessing",
    "RemoteFile",
    "ZooEntry",
    "ZooNet",
    "cache_folder",
    "cached",
    "download",
    "entry_costs",
    "fetch",
    "find_entry",
    "git_blob_sha1",
    "load_config_net",
    "load_proxylessnas",
    "load_specialized",
    "load_static",
    "load_supernet",
    "verify",
    "zoo_entries",
]
