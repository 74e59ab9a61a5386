"""The one NATS connection of a process, its buckets, and the object store."""

from bus.buckets import Bucket, Entry, Watch
from bus.connection import (
    QUEUE_FULL,
    Ack,
    Bus,
    Stored,
    Subscription,
    header_block,
)
from bus.objects import ObjectStore, open_store
from bus.opening import attach, connect, connect_options, open_bus
from bus.pull import Batches, Delivery, Pull
from bus.tool_catalogue import ToolCatalogue, open_tool_catalogue
from bus.wire import Message, header_value

__all__ = [
    "QUEUE_FULL",
    "Ack",
    "Batches",
    "Bucket",
    "Bus",
    "Delivery",
    "Entry",
    "Message",
    "ObjectStore",
    "Pull",
    "Stored",
    "Subscription",
    "ToolCatalogue",
    "Watch",
    "attach",
    "connect",
    "connect_options",
    "header_block",
    "header_value",
    "open_bus",
    "open_store",
    "open_tool_catalogue",
]
