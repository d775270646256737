// Mercurius under Fastify, as its documentation has it. PORT in the environment; with REDIS_URL, through Redis.
import Fastify from "fastify";
import mercurius from "mercurius";
import redisEmitter from "mqemitter-redis";

import { empty, made, typeDefs } from "./feed.mjs";

const app = Fastify({ logger: false });
const redis = process.env.REDIS_URL && new URL(process.env.REDIS_URL);
const emitter = redis ? redisEmitter({ host: redis.hostname, port: Number(redis.port), password: redis.password }) : undefined;
// Without this the process ends when Redis does.
emitter?.state.on("error", () => {});
const resolvers = {
  Query: { ok: () => true },
  Subscription: {
    punches: {
      subscribe: async function* (_root, _args, { pubsub }) {
        const news = await pubsub.subscribe("punches");
        yield { punches: empty() };
        for await (const message of news) yield message;
      },
    },
  },
};
app.register(mercurius, { schema: typeDefs, resolvers, subscription: { fullWsTransport: true, emitter }, jit: 1 });
app.get("/push", async (request) => {
  app.graphql.pubsub.publish({ topic: "punches", payload: { punches: made(request.query) } });
  return "OK";
});
await app.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 2048 });
