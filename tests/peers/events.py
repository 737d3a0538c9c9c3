"""Reads what an agent has told as the manager does: by the official event classes of backend.ai-common.

Reads a JSON list of stream entries (maps of text), prints a JSON list of the classes that read them. Fails with the
first that cannot be read.
"""

import json
import sys

from ai.backend.common.events.event_types.agent import anycast as of_agents
from ai.backend.common.events.event_types.image import anycast as of_images
from ai.backend.common.events.message import EventMessage
from ai.backend.common.message_queue.payload import AnycastMessagePayload

BY_NAME = {
    cls.event_name(): cls
    for module in (of_agents, of_images)
    for cls in vars(module).values()
    if isinstance(cls, type) and cls.__module__ == module.__name__ and not getattr(cls, "__abstractmethods__", None)
}


def read(entry):
    fields = {field.encode(): value.encode() for field, value in entry.items()}
    payload = AnycastMessagePayload.from_stream_fields(fields)
    event = BY_NAME[payload.name].from_message(EventMessage(name=payload.name, payload=payload.payload))
    return type(event).__name__


print(json.dumps([read(entry) for entry in json.load(sys.stdin)]))
