// A webhook's signature: body on stdin, headers in the environment.
import {createHmac, timingSafeEqual} from "node:crypto";
import {readFileSync} from "node:fs";

const {WEBHOOK_SECRET, WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE} = process.env;
const body = readFileSync(0);
const key = Buffer.from(WEBHOOK_SECRET.replace("whsec_", ""), "base64");
const hmac = createHmac("sha256", key).update(`${WEBHOOK_ID}.${WEBHOOK_TIMESTAMP}.`).update(body);
const expected = Buffer.from(`v1,${hmac.digest("base64")}`);
const given = WEBHOOK_SIGNATURE.split(" ").map((each) => Buffer.from(each)); // two while a rotation lasts
const fresh = Math.abs(Date.now() / 1000 - Number(WEBHOOK_TIMESTAMP)) < 300;
const good = given.some((each) => each.length === expected.length && timingSafeEqual(each, expected));
console.log(fresh && good ? "good" : "refused");
