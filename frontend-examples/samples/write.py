"""A write that may be sent again. Standard library only."""

import json
import os
from urllib.request import Request, urlopen

MUTATION = """mutation ($input: EmployeeUpsertInput!) {
  employeeUpsert(input: $input) { employee { pin name } idempotentReplay userErrors { code message } }
}"""
given = {"pin": "0042", "name": "Zineb Zaoui"}
headers = {
    "Authorization": "Bearer " + os.environ["PUNCHCONNECT_KEY"],
    "Content-Type": "application/json",
    "Idempotency-Key": "hire-0042",
}
body = json.dumps({"query": MUTATION, "variables": {"input": given}}).encode()
with urlopen(Request(os.environ["PUNCHCONNECT_URL"], body, headers)) as answer:
    done = json.load(answer)["data"]["employeeUpsert"]
for error in done["userErrors"]:
    raise SystemExit(f"{error['code']}: {error['message']}")
print(done["employee"]["name"], "again" if done["idempotentReplay"] else "new")
