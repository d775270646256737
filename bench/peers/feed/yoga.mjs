// graphql-yoga with graphql-ws, put together as yoga's documentation has it. PORT in the environment; with
// REDIS_URL, through Redis.
import { once, setMaxListeners } from "node:events";
import { createServer } from "node:http";

import { createRedisEventTarget } from "@graphql-yoga/redis-event-target";
import { useServer } from "graphql-ws/use/ws";
import { createPubSub, createSchema, createYoga } from "graphql-yoga";
import { Redis } from "ioredis";
import { WebSocketServer } from "ws";

import { empty, made, typeDefs } from "./feed.mjs";

setMaxListeners(0);
const url = process.env.REDIS_URL;
const clients = url ? [new Redis(url), new Redis(url)] : [];
// Who subscribes before the connection is ready hears nothing.
await Promise.all(clients.map((client) => once(client, "ready")));
const [publishClient, subscribeClient] = clients;
const eventTarget = url ? createRedisEventTarget({ publishClient, subscribeClient }) : undefined;
const pubSub = createPubSub({ eventTarget });
async function* follow() {
  const news = pubSub.subscribe("punches");
  yield { punches: empty() };
  for await (const batch of news) yield { punches: batch };
}
const schema = createSchema({ typeDefs, resolvers: { Query: { ok: () => true }, Subscription: { punches: { subscribe: follow } } } });
const yoga = createYoga({ schema, logging: false });
const server = createServer((request, response) => {
  if (!request.url.startsWith("/push")) return yoga(request, response);
  pubSub.publish("punches", made(Object.fromEntries(new URL(request.url, "http://x").searchParams)));
  response.end("OK");
});
const wss = new WebSocketServer({ server, path: yoga.graphqlEndpoint, perMessageDeflate: false });
useServer(
  {
    execute: (args) => args.rootValue.execute(args),
    subscribe: (args) => args.rootValue.subscribe(args),
    onSubscribe: async (context, _id, params) => {
      const { schema, execute, subscribe, contextFactory, parse, validate } = yoga.getEnveloped({
        ...context,
        req: context.extra.request,
        socket: context.extra.socket,
        params,
      });
      const args = {
        schema,
        operationName: params.operationName,
        document: parse(params.query),
        variableValues: params.variables,
        contextValue: await contextFactory(),
        rootValue: { execute, subscribe },
      };
      const errors = validate(args.schema, args.document);
      return errors.length ? errors : args;
    },
  },
  wss,
);
server.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 2048 });
