// npm's own graphql-ws as a server, for the same frames that ours is sent. Prints its port.
import { buildSchema, GraphQLError } from "graphql";
import { useServer } from "graphql-ws/use/ws";
import { WebSocketServer } from "ws";

const schema = buildSchema(`
  type Query { hello(name: String! = "you"): String! }
  type Mutation { double(n: Int!): Int! }
  type Subscription { count(to: Int!): Int!, forever(name: String! = "forever"): Int! }
`);
async function* count(_root, { to }) {
  for (let n = 0; n < to; n += 1) yield { count: n };
}
async function* forever() {
  yield { forever: 0 };
  await new Promise(() => {});
}
schema.getQueryType().getFields().hello.resolve = (_root, { name }) => `Hello, ${name}!`;
schema.getMutationType().getFields().double.resolve = (_root, { n }) => 2 * n;
schema.getSubscriptionType().getFields().count.subscribe = count;
schema.getSubscriptionType().getFields().forever.subscribe = forever;

const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
useServer({ schema, connectionInitWaitTimeout: 60_000, onError: (_context, _id, _payload, errors) => errors ?? [new GraphQLError("?")] }, server);
server.on("listening", () => console.log(server.address().port));
