"""Calls an agent by the official client: `AgentClient` over `PeerInvoker` of backend.ai-common.

    client.py ADDRESS KERNEL [SERVER_PUBLIC CLIENT_PUBLIC CLIENT_SECRET]

With the three keys (Z85) the connection speaks CURVE. Reads one JSON list a line, `[what, argument, ...]`, and prints
one JSON value a line: what the client returned, or `{"error": class, "text": ...}`. `what` is a method of
`AgentClient`, `of_kernel` or `of_agent` for another one of it by its name, or `call` for a method by its name on the
wire. Bytes are printed as Latin-1. Arguments that are missing at the front, the session
and the kernel, are filled in for `execute`.
"""

import asyncio
import json
import sys
import uuid

from ai.backend.common import msgpack
from ai.backend.common.auth import ManagerAuthHandler
from ai.backend.common.clients.agent.client import AgentClient
from ai.backend.common.clients.agent.peer import PeerInvoker
from ai.backend.common.types import AgentId, KernelId, SessionId
from callosum.lower.zeromq import ZeroMQAddress, ZeroMQRPCTransport


def peer(address, keys):
    auth = None
    if keys:
        server, public, secret = (key.encode() for key in keys)
        auth = ManagerAuthHandler("local", server, public, secret)
    return PeerInvoker(
        connect=ZeroMQAddress(address),
        transport=ZeroMQRPCTransport,
        authenticator=auth,
        # As the manager's pool sets them.
        transport_opts={"zsock_opts": {}, "handshake_timeout": 5.0},
        serializer=msgpack.packb,
        deserializer=msgpack.unpackb,
    )


async def ask(client, link, session, kernel, what, *arguments):
    match what:
        case "ping":
            return await client.ping()
        case "execute":
            return await client.execute(session, kernel, *arguments)
        case "interrupt_kernel":
            return await client.interrupt_kernel(kernel)
        case "get_completions":
            return await client.get_completions(kernel, *arguments)
        case "ping_kernel":
            return await link.call.ping_kernel(str(kernel), agent_id=None)
        case "call":
            return await getattr(link.call, arguments[0])(*arguments[1:])
        case "cancelled":
            # A caller that goes away sends a CANCEL.
            task = asyncio.create_task(client.execute(session, kernel, *arguments))
            await asyncio.sleep(0.2)
            task.cancel()
            try:
                return await task
            except asyncio.CancelledError:
                return "cancelled"
        case "together":
            calls = (client.execute(session, kernel, *one) for one in arguments)
            return await asyncio.gather(*calls)
        case "of_kernel":
            method, *arguments = arguments
            return await getattr(client, method)(kernel, *arguments)
        case "of_agent":
            return await getattr(client, arguments[0])()
        case "upload_file":
            name, text = arguments
            return await client.upload_file(kernel, name, text.encode())
    raise SystemExit(f"client.py does not know {what}")


def plain(value):
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value.model_dump(mode="json")


async def main(address, kernel, *keys):
    link = peer(address, keys)
    client = AgentClient(link, AgentId("") or None)
    session, kernel = SessionId(uuid.uuid4()), KernelId(uuid.UUID(kernel))
    await client.connect()
    try:
        for line in sys.stdin:
            try:
                answer = await ask(client, link, session, kernel, *json.loads(line))
            except Exception as error:
                answer = {"error": type(error).__name__, "text": str(error)}
            print(json.dumps(answer, default=plain), flush=True)
    finally:
        await client.close()


asyncio.run(main(*sys.argv[1:]))
