// One request a line: {secret, headers, body}. Each must pass both stock verifiers; the number that did is printed.
import { createInterface } from "node:readline";
import { Webhook as Standard } from "standardwebhooks";
import { Webhook as Svix } from "svix";

let passed = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  new Standard(secret).verify(body, headers);
  new Svix(secret).verify(body, headers);
  passed += 1;
}
console.log(passed);
