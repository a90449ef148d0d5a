"""A Hugging Face Hub on loopback, for the real client to talk to: download, upload, history, and scripted faults."""

from tests.loopback.faults import (
    Before,
    Cut,
    Drip,
    Fault,
    Flip,
    Header,
    LostAnswer,
    Port,
    Request,
    Reset,
    Stall,
    Status,
    Truncate,
)
from tests.loopback.hub import Hub
from tests.loopback.repository import Commit, File, Repo
from tests.loopback.server import serve

__all__ = [
    "Before",
    "Commit",
    "Cut",
    "Drip",
    "Fault",
    "File",
    "Flip",
    "Header",
    "Hub",
    "LostAnswer",
    "Port",
    "Repo",
    "Request",
    "Reset",
    "Stall",
    "Status",
    "Truncate",
    "serve",
]
