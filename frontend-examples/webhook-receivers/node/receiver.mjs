// A webhook receiver in one file, with nothing but Node's own modules (18 or newer).
//
//     WEBHOOK_SECRET=whsec_… PORT=9000 node receiver.mjs
//
// It checks both signatures, takes each event once, answers at once and does the work afterwards. One signature is
// enough in practice: webhook-signature, because it covers the time too, so that a recorded request cannot be sent again.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const TOLERANCE_SECONDS = 300;
const LARGEST_BODY = 1024 * 1024;
const REMEMBERED = 10_000;

// During a rotation the variable may hold two secrets, separated by a comma.
const SECRETS = (process.env.WEBHOOK_SECRET ?? "").split(",").map((secret) => secret.trim()).filter(Boolean);

class Refused extends Error {
  constructor(status, why) {
    super(why);
    this.status = status;
  }
}

/** Check both signatures over the raw body, before anything reads it. Node gives header names in lower case. */
function verify(headers, body) {
  for (const name of ["webhook-id", "webhook-timestamp", "webhook-signature", "x-punchconnect-signature"]) {
    if (!headers[name]) throw new Refused(400, `the header ${name} is missing`);
  }
  const timestamp = headers["webhook-timestamp"];
  if (!/^[0-9]{1,12}$/.test(timestamp)) throw new Refused(400, "webhook-timestamp is not a number");
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_SECONDS) {
    throw new Refused(401, "signed too long ago, or one of the two clocks is wrong");
  }

  // Standard Webhooks: the key is what the base64 after `whsec_` stands for. Any of the listed signatures may match.
  const standard = SECRETS.map((secret) => {
    const key = Buffer.from(secret.slice("whsec_".length), "base64");
    const signed = createHmac("sha256", key).update(`${headers["webhook-id"]}.${timestamp}.`).update(body);
    return `v1,${signed.digest("base64")}`;
  });
  if (!matches(standard, headers["webhook-signature"].split(" "))) {
    throw new Refused(401, "webhook-signature does not match");
  }

  // X-PunchConnect-Signature: the key is the secret's text, `whsec_` included. While a rotation lasts it is made with
  // the previous secret; who has only the new one relies on the check above.
  if (headers["x-punchconnect-signature-key"] !== "previous" || SECRETS.length > 1) {
    const plain = SECRETS.map((secret) => createHmac("sha256", secret).update(body).digest("hex"));
    if (!matches(plain, [headers["x-punchconnect-signature"]])) {
      throw new Refused(401, "x-punchconnect-signature does not match");
    }
  }
}

function matches(expected, given) {
  const equal = (one, other) => one.length === other.length && timingSafeEqual(one, other);
  return expected.some((one) => given.some((other) => equal(Buffer.from(one), Buffer.from(other))));
}

// Every event once. A real receiver has a unique column for `webhook-id`, in the transaction that does the work.
const seen = new Set();

function take(eventId, event) {
  if (seen.has(eventId)) return false;
  seen.add(eventId);
  if (seen.size > REMEMBERED) seen.delete(seen.values().next().value);
  setImmediate(work, event);
  return true;
}

/** What the business does with an event: here, a line on the screen. */
function work(event) {
  console.log(describe(event));
}

function describe(event) {
  if (!event.type.startsWith("punch.")) return `${event.type}  ${event.id}`;
  const punch = event.data;
  const who = punch.employee?.name || "unknown";
  const where = punch.device.name || punch.device.serial_number;
  const when = `${punch.local_time} ${punch.time_zone}`;
  return `${event.type}  ${when}  ${punch.direction}  ${who} (PIN ${punch.pin})  ${where}`;
}

async function readBody(request) {
  if (request.headers["content-length"] === undefined) throw new Refused(411, "content-length is missing");
  if (Number(request.headers["content-length"]) > LARGEST_BODY) throw new Refused(413, "the body is too large");
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function receive(request) {
  if (request.method !== "POST") throw new Refused(405, "webhooks are sent with POST");
  const body = await readBody(request);
  verify(request.headers, body);
  let event;
  try {
    event = JSON.parse(body);
  } catch {
    throw new Refused(400, "the body is not JSON");
  }
  // A repeat is a success too: PunchConnect only needs to know that it can stop sending.
  return take(request.headers["webhook-id"], event) ? "ok" : "duplicate";
}

const server = createServer((request, response) => {
  const answer = (status, text) => {
    // What was not read is not worth reading: the connection goes.
    if (!request.complete && status !== 200) response.setHeader("Connection", "close");
    response.writeHead(status, { "Content-Type": "text/plain; charset=utf-8", "Content-Length": Buffer.byteLength(text) });
    response.end(text);
  };
  receive(request).then(
    (text) => answer(200, text),
    (error) => (error instanceof Refused ? answer(error.status, error.message) : response.destroy(error)),
  );
});

if (SECRETS.length === 0 || !SECRETS.every((secret) => /^whsec_[A-Za-z0-9+/]+={0,2}$/.test(secret))) {
  console.error("Set WEBHOOK_SECRET to the secret that webhookEndpointCreate answered with: whsec_…");
  process.exit(2);
}
server.listen(Number(process.env.PORT ?? 9000), process.env.HOST ?? "127.0.0.1", () => {
  const { address, port } = server.address();
  console.log(`listening on http://${address}:${port}/`);
});
