"""What the acceptance checks do with JSON, archives and figures. Standard library only.

  tool.py get PATH                 a value of the JSON on standard input: a.b.0.c; lists as one word a line
  tool.py records                  the kernels of `berth ps -a -o json`, one a line
  tool.py shares                   the slots of `berth slots -o json` of which something is held, one a line
  tool.py starting                 the most kernels of `berth ps -o json` that were starting at one time
  tool.py median                   of the numbers on standard input
  tool.py create-body FROM TO      `docker inspect` of one container on standard input -> the body that makes
                                   an equal one, its mounts below folder FROM moved below TO
  tool.py other-architecture ARCH  a `docker save` archive on standard input -> the same image for ARCH
"""

import hashlib
import io
import json
import os
import statistics
import sys
import tarfile


def get(path):
    value = json.load(sys.stdin)
    # One thing asked for may come as a list of one.
    if isinstance(value, list) and len(value) == 1 and not path.split(".")[0].isdigit():
        value = value[0]
    for key in path.split(".") if path != "." else []:
        if value is None:
            break
        value = value[int(key)] if isinstance(value, list) else value.get(key)
    if isinstance(value, list):
        print("\n".join(v if isinstance(v, str) else json.dumps(v) for v in value))
    elif isinstance(value, dict):
        print(json.dumps(value))
    else:
        print("" if value is None else json.dumps(value) if isinstance(value, bool) else value)


def objects(value, key):
    """Every object in a JSON value that has the key."""
    if isinstance(value, dict):
        if key in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from objects(inner, key)


def records():
    for kernel in objects(json.load(sys.stdin), "phase"):
        print("record", kernel.get("name"), kernel["phase"])


def shares():
    for slot in objects(json.load(sys.stdin), "held"):
        if any(digit in str(slot["held"]) for digit in "123456789"):
            print("share", slot.get("slot"), slot["held"])


def starting():
    """The most kernels of `berth ps -o json` that were starting at one time."""
    steps = []
    for kernel in objects(json.load(sys.stdin), "phase"):
        if kernel.get("starting_at_ms") and kernel.get("ready_at_ms"):
            steps += [(kernel["starting_at_ms"], 1), (kernel["ready_at_ms"], -1)]
    now = most = 0
    for _, step in sorted(steps):
        now += step
        most = max(most, now)
    print(most)


def median():
    print(round(statistics.median(float(word) for word in sys.stdin.read().split()), 1))


def create_body(source, target):
    container = json.load(sys.stdin)[0]
    body = {key: value for key, value in container["Config"].items() if value is not None}
    host = {key: value for key, value in container["HostConfig"].items() if value is not None}
    # Another's container: no agent may take it for its own.
    body["Labels"] = {key: value for key, value in body.get("Labels", {}).items() if not key.startswith("ai.")}
    body["Labels"]["ai.berth.acceptance"] = "1"

    def moved(path):
        return target + path[len(source):] if path == source or path.startswith(source + "/") else path

    for mount in host.get("Mounts") or []:
        if mount.get("Type") == "bind" and not os.path.exists(mount["Source"]):
            mount["Source"] = moved(mount["Source"])
            os.makedirs(mount["Source"], exist_ok=True)
    binds = []
    for bind in host.get("Binds") or []:
        path, rest = bind.split(":", 1)
        if not os.path.exists(path):
            path = moved(path)
            os.makedirs(path, exist_ok=True)
        binds.append(path + ":" + rest)
    if binds:
        host["Binds"] = binds
    body["HostConfig"] = host
    json.dump(body, sys.stdout)


def other_architecture(architecture):
    old = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()))
    manifest = json.load(old.extractfile("manifest.json"))
    out = io.BytesIO()
    new = tarfile.open(fileobj=out, mode="w")

    def add(name, data):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        new.addfile(info, io.BytesIO(data))

    for image in manifest:
        config = json.load(old.extractfile(image["Config"]))
        config["architecture"] = architecture
        data = json.dumps(config).encode()
        image["Config"] = hashlib.sha256(data).hexdigest() + ".json"
        add(image["Config"], data)
        for layer in image["Layers"]:
            add(layer, old.extractfile(layer).read())
    add("manifest.json", json.dumps(manifest).encode())
    new.close()
    sys.stdout.buffer.write(out.getvalue())


if __name__ == "__main__":
    commands = {
        "get": get,
        "records": records,
        "shares": shares,
        "median": median,
        "starting": starting,
        "create-body": create_body,
        "other-architecture": other_architecture,
    }
    try:
        command = commands[sys.argv[1]]
    except (IndexError, KeyError):
        sys.exit(__doc__)
    command(*sys.argv[2:])
