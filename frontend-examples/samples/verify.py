"""A webhook's signature: body on stdin, headers in the environment."""

import base64
import hashlib
import hmac
import os
import sys
import time

body = sys.stdin.buffer.read()
key = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
message = f"{os.environ['WEBHOOK_ID']}.{os.environ['WEBHOOK_TIMESTAMP']}.".encode() + body
expected = "v1," + base64.b64encode(hmac.digest(key, message, hashlib.sha256)).decode()
given = os.environ["WEBHOOK_SIGNATURE"].split()  # two of them while a rotation lasts
fresh = abs(time.time() - int(os.environ["WEBHOOK_TIMESTAMP"])) < 300
print("good" if fresh and any(hmac.compare_digest(expected, each) for each in given) else "refused")
