// What a Node team would write over the same rows: graphql-yoga with its caches on, pg, one DataLoader per edge.
// PORT, DATABASE_URL, API_KEY and TENANT_ID in the environment.
import { createHmac } from "node:crypto";
import { createServer } from "node:http";

import DataLoader from "dataloader";
import { GraphQLError } from "graphql";
import { createSchema, createYoga } from "graphql-yoga";
import pg from "pg";

pg.types.setTypeParser(1114, (text) => text.slice(0, 19).replace(" ", "T")); // a wall-clock reading has no zone
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });
const rows = async (name, text, values) => (await pool.query({ name, text, values })).rows;

const typeDefs = /* GraphQL */ `
  scalar DateTime
  scalar LocalDateTime
  enum PunchDirection { CHECK_IN CHECK_OUT BREAK_OUT BREAK_IN OVERTIME_IN OVERTIME_OUT UNSPECIFIED }
  enum VerifyMode { PASSWORD FINGERPRINT CARD FACE PALM OTHER }
  enum DeviceStatus { PENDING ACTIVE SUSPENDED RETIRED }
  type RateLimit { limit: Int! }
  type Employee { id: ID!, name: String }
  type Device {
    id: ID!, name: String!, serialNumber: String!, status: DeviceStatus!, lastSeenAt: DateTime
    punches(first: Int): PunchConnection!
  }
  type Punch {
    id: ID!, pin: String!, punchedAt: DateTime!, localTime: LocalDateTime!, receivedAt: DateTime!
    direction: PunchDirection!, verifyMode: VerifyMode!, buffered: Boolean!, device: Device, employee: Employee
  }
  type PageInfo { hasNextPage: Boolean!, endCursor: String }
  type PunchEdge { cursor: String!, node: Punch! }
  type PunchConnection { edges: [PunchEdge!]!, nodes: [Punch!]!, pageInfo: PageInfo! }
  type DeviceConnection { nodes: [Device!]! }
  type Query {
    rateLimit: RateLimit
    punches(first: Int, after: String): PunchConnection
    devices(first: Int): DeviceConnection
  }
`;

const DIRECTIONS = ["CHECK_IN", "CHECK_OUT", "BREAK_OUT", "BREAK_IN", "OVERTIME_IN", "OVERTIME_OUT", "UNSPECIFIED"];
const VERIFY_MODES = ["PASSWORD", "FINGERPRINT", "CARD", "FACE", "PALM", "OTHER"];
const COLUMNS =
  "id, device_id, pin, local_time, punched_at, received_at, direction, verify_mode, buffered";

const writeCursor = (row) => Buffer.from(JSON.stringify([row.punched_at, row.id])).toString("base64url");
const readCursor = (text) => JSON.parse(Buffer.from(text, "base64url").toString());
const page = (found, size) => ({ rows: found.slice(0, size), more: found.length > size });

const resolvers = {
  DateTime: { serialize: (value) => value.toISOString() },
  LocalDateTime: { serialize: (value) => value },
  Query: {
    rateLimit: () => ({ limit: 20_000 }),
    punches: async (_, { first = 50, after }, { tenant }) => {
      const found = after
        ? await rows(
            "punches after",
            `SELECT ${COLUMNS} FROM punches WHERE tenant_id = $1 AND (punched_at, id) < ($3, $4)
             ORDER BY punched_at DESC, id DESC LIMIT $2`,
            [tenant, first + 1, ...readCursor(after)],
          )
        : await rows(
            "punches",
            `SELECT ${COLUMNS} FROM punches WHERE tenant_id = $1 ORDER BY punched_at DESC, id DESC LIMIT $2`,
            [tenant, first + 1],
          );
      return page(found, first);
    },
    devices: async (_, { first = 50 }, { tenant }) => ({
      nodes: await rows("devices", "SELECT * FROM devices WHERE tenant_id = $1 ORDER BY created_at, id LIMIT $2", [
        tenant,
        first,
      ]),
    }),
  },
  PunchConnection: {
    nodes: (found) => found.rows,
    edges: (found) => found.rows.map((row) => ({ cursor: writeCursor(row), node: row })),
    pageInfo: (found) => ({
      hasNextPage: found.more,
      endCursor: found.rows.length ? writeCursor(found.rows.at(-1)) : null,
    }),
  },
  Punch: {
    punchedAt: (row) => row.punched_at,
    localTime: (row) => row.local_time,
    receivedAt: (row) => row.received_at,
    direction: (row) => DIRECTIONS[row.direction],
    verifyMode: (row) => VERIFY_MODES[row.verify_mode],
    device: (row, _, { devices }) => devices.load(row.device_id),
    employee: (row, _, { employees }) => employees.load(row.pin),
  },
  Device: {
    serialNumber: (row) => row.serial_number,
    lastSeenAt: (row) => row.last_seen_at,
    punches: async (row, { first = 50 }, { punches }) => page(await punches.load({ id: row.id, first }), first),
  },
};

const by = (found, column, keys) => {
  const known = new Map(found.map((row) => [row[column], row]));
  return keys.map((key) => known.get(key) ?? null);
};

const secret = "as ours does, a key is kept as a keyed hash";
const hash = (text) => createHmac("sha256", secret).update(text).digest("hex");
const tenants = new Map([[hash(process.env.API_KEY), process.env.TENANT_ID]]);

const context = ({ request }) => {
  const tenant = tenants.get(hash((request.headers.get("authorization") ?? "").replace(/^Bearer /, "")));
  if (!tenant) throw new GraphQLError("Who is calling?", { extensions: { http: { status: 401 } } });
  return {
    tenant,
    devices: new DataLoader(async (ids) =>
      by(await rows("devices by id", "SELECT * FROM devices WHERE tenant_id = $1 AND id = ANY ($2::uuid[])", [tenant, ids]), "id", ids),
    ),
    employees: new DataLoader(async (pins) =>
      by(await rows("employees by pin", "SELECT * FROM employees WHERE tenant_id = $1 AND pin = ANY ($2)", [tenant, pins]), "pin", pins),
    ),
    punches: new DataLoader(
      async (wanted) => {
        const found = await rows(
          "punches of devices",
          `SELECT one.* FROM unnest($2::uuid[]) AS device (id), LATERAL (
             SELECT ${COLUMNS} FROM punches WHERE tenant_id = $1 AND device_id = device.id
             ORDER BY punched_at DESC, id DESC LIMIT $3) AS one`,
          [tenant, wanted.map(({ id }) => id), wanted[0].first + 1],
        );
        const lists = new Map(wanted.map(({ id }) => [id, []]));
        for (const row of found) lists.get(row.device_id).push(row);
        return wanted.map(({ id }) => lists.get(id));
      },
      { cacheKeyFn: ({ id, first }) => `${id} ${first}` },
    ),
  };
};

const yoga = createYoga({
  schema: createSchema({ typeDefs, resolvers }),
  context,
  logging: false,
  graphiql: false,
  landingPage: false,
});
createServer(yoga).listen(Number(process.env.PORT), "127.0.0.1");
