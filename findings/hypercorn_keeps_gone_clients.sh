#!/usr/bin/env bash
# Hypercorn keeps a connection whose client has closed it until its keep-alive time is over.
#
# Expected: when a client closes an idle connection, the server closes its side: uvicorn does so within milliseconds.
# Happens: hypercorn's task that waits for the keep-alive time-out of a connection is not ended when the client is gone, and
#   the connection is closed only when that task has ended. Each client that has come and gone, with a request or without
#   one, costs a file and 13 KiB for `keep_alive_timeout` seconds (5 by default); `Connection: close` alone is spared.
# Why it matters: 100 clients a second, each with a connection of its own, are 3,000 open files with a time-out of 30 s,
#   and asyncio that may open no more (1,024 by default) accepts nobody, and logs thousands of tracebacks a second.
#
# Seen 2026-11-30: hypercorn 0.18.0, uvicorn 0.38.0, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check hypercorn==0.18.0 uvicorn==0.38.0

cat > probe.py <<'PY'
"""Fifty clients that ask nothing, and fifty that ask once; then all are gone. How many files are open for them still?"""
import asyncio
import os
import socket
import sys


async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


def serving(how, listening, end):
    if how == "hypercorn":
        from hypercorn.asyncio import serve
        from hypercorn.config import Config

        config = Config()
        config.bind, config.keep_alive_timeout, config.loglevel = [f"fd://{listening.detach()}"], 6, "ERROR"
        return serve(app, config, shutdown_trigger=end.wait)
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, timeout_keep_alive=6, log_level="error", lifespan="off"))

    async def run():
        task = asyncio.ensure_future(server.serve([listening]))
        await end.wait()
        server.should_exit = True
        await task

    return run()


async def main(how):
    def files():
        return len(os.listdir("/proc/self/fd"))

    listening = socket.create_server(("127.0.0.1", 0))
    port, end = listening.getsockname()[1], asyncio.Event()
    task = asyncio.ensure_future(serving(how, listening, end))
    await asyncio.sleep(1)
    before = files()
    for asks in (False, True):
        clients = []
        for _ in range(50):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if asks:
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await reader.readuntil(b"ok")
            clients.append(writer)
        for writer in clients:
            writer.close()
        await asyncio.sleep(2)
        kept = files() - before
        await asyncio.sleep(6)
        print(f"{how}: {kept} of 50 {'after a request' if asks else 'that asked nothing'}, {files() - before} at the end")
    end.set()
    await task


asyncio.run(main(sys.argv[1]))
PY

for how in hypercorn uvicorn; do timeout 120 venv/bin/python probe.py "$how"; done | tee seen.txt
cat > want.txt <<'TXT'
hypercorn: 50 of 50 that asked nothing, 0 at the end
hypercorn: 50 of 50 after a request, 0 at the end
uvicorn: 0 of 50 that asked nothing, 0 at the end
uvicorn: 0 of 50 after a request, 0 at the end
TXT
if ! diff want.txt seen.txt; then
  echo "the behaviour has changed"
  exit 1
fi
