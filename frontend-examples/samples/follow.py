"""Punches as they happen. Goes on where it was after a lost connection. Standard library only."""

import json
import os
import time
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

QUERY = "subscription { punches { cursor punches { localTime pin direction } } }"

body = json.dumps({"query": QUERY}).encode()
headers = {
    "Authorization": "Bearer " + os.environ["PUNCHCONNECT_KEY"],
    "Content-Type": "application/json",
    "Accept": "text/event-stream",
}
while True:
    try:
        # The server says something every 15 seconds: after 40 of silence the connection is dead.
        with urlopen(Request(os.environ["PUNCHCONNECT_URL"], body, headers), timeout=40) as stream:
            for line in stream:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name != "data":
                    continue
                answer = json.loads(value)
                if "errors" in answer:
                    raise SystemExit(answer["errors"][0]["message"])
                batch = answer["data"]["punches"]
                for punch in batch["punches"]:
                    print(punch["localTime"], punch["pin"], punch["direction"], flush=True)
                headers["Last-Event-ID"] = batch["cursor"]  # after what was done with the batch, never before
    except HTTPError as problem:
        if problem.code < 500 and problem.code != 429:
            raise
    except (OSError, HTTPException):
        pass
    time.sleep(1)
