"""The files that a run writes and reads, as typed records: one reader, one writer.

A new one is exported here, has its path in `job/folder.py` and its place in `docs/reference.py`.
Latency models, predictors and journals read themselves.

Keys, types and ranges are checked when a file is read. Keys that a record does not know are left
out; those that older versions did not write are None.
"""

from onceforall.artifacts.cards import (
    Baseline,
    BaselineStart,
    Card,
    DeviceFacts,
    FinetuneSettings,
    FinetuneStart,
    ShippedFile,
    Tuned,
)
from onceforall.artifacts.epochs import Epoch
from onceforall.artifacts.events import Progress, Told
from onceforall.artifacts.search import (
    Answer,
    Confirmed,
    ConfirmedFile,
    Evaluation,
    Failed,
    FailedFile,
    Found,
    FrontFile,
    FrontPoint,
    Rejected,
)
from onceforall.artifacts.settings import DataFacts, Estimate, Request, RunSettings

__all__ = [
    "Answer",
    "Baseline",
    "BaselineStart",
    "Card",
    "Confirmed",
    "ConfirmedFile",
    "DataFacts",
    "DeviceFacts",
    "Epoch",
    "Estimate",
    "Evaluation",
    "Failed",
    "FailedFile",
    "FinetuneSettings",
    "FinetuneStart",
    "Found",
    "FrontFile",
    "FrontPoint",
    "Progress",
    "Rejected",
    "Request",
    "RunSettings",
    "ShippedFile",
    "Told",
    "Tuned",
]
