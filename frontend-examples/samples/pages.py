"""All punches since a moment, page by page. Standard library only."""

import json
import os
from urllib.request import Request, urlopen

QUERY = """query ($after: String) {
  punches(first: 100, after: $after, filter: {receivedAt: {gte: "2020-01-01T00:00:00Z"}}) {
    nodes { id localTime pin direction }
    pageInfo { hasNextPage endCursor }
  }
}"""

after = None
while True:
    body = json.dumps({"query": QUERY, "variables": {"after": after}}).encode()
    headers = {"Authorization": "Bearer " + os.environ["PUNCHCONNECT_KEY"], "Content-Type": "application/json"}
    with urlopen(Request(os.environ["PUNCHCONNECT_URL"], body, headers)) as answer:
        page = json.load(answer)["data"]["punches"]
    for punch in page["nodes"]:
        print(punch["localTime"], punch["pin"], punch["direction"])
    if not page["pageInfo"]["hasNextPage"]:
        break
    after = page["pageInfo"]["endCursor"]
