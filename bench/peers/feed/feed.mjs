// What both peers serve: the fields of the feed that the benchmark asks for, out of memory. GET /push?pin=…&count=… is an
// upload that is not stored: it makes punches and hands them, as one batch, to everybody who follows.
export const typeDefs = /* GraphQL */ `
  scalar DateTime
  scalar LocalDateTime
  enum PunchDirection { CHECK_IN CHECK_OUT }
  enum VerifyMode { FACE CARD }
  type Device { name: String! }
  type Punch {
    id: ID!, pin: String!, punchedAt: DateTime!, localTime: LocalDateTime!, direction: PunchDirection!
    verifyMode: VerifyMode!, buffered: Boolean!, device: Device
  }
  type PunchBatch { cursor: String!, previousCursor: String, caughtUp: Boolean!, headLag: Int!, punches: [Punch!]! }
  type Query { ok: Boolean! }
  type Subscription { punches(after: String): PunchBatch! }
`;

let position = 0;
const cursor = () => `AQAAAAA${String(position).padStart(21, "A")}`;

export const empty = () => ({ cursor: cursor(), previousCursor: null, caughtUp: true, headLag: 0, punches: [] });

export function made(query) {
  const previousCursor = cursor();
  const first = position + 1;
  position += Number(query.count ?? 1);
  const punches = [];
  for (let number = first; number <= position; number++) {
    punches.push({
      id: `pun_${String(number).padStart(26, "0")}`,
      pin: query.pin,
      punchedAt: "2026-11-20T07:00:00Z",
      localTime: "2026-11-20T08:00:00",
      direction: "CHECK_IN",
      verifyMode: "FACE",
      buffered: true,
      device: { name: "VIRT000001" },
    });
  }
  return { cursor: cursor(), previousCursor, caughtUp: true, headLag: 0, punches };
}
