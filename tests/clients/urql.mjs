// urql: a query with variables, a query by GET, an error with its code, and the live feed over graphql-ws.
import assert from "node:assert/strict";
import { Client, cacheExchange, fetchExchange, gql, subscriptionExchange } from "@urql/core";
import { createClient } from "graphql-ws";
import WebSocket from "ws";

const [url, key] = process.argv.slice(2);
const authorization = `Bearer ${key}`;
const socket = createClient({
  url: url.replace("http", "ws"),
  webSocketImpl: WebSocket,
  connectionParams: { authorization },
});
const make = (preferGetMethod) =>
  new Client({
    url,
    preferGetMethod,
    fetchOptions: { headers: { authorization } },
    exchanges: [
      cacheExchange,
      fetchExchange,
      subscriptionExchange({
        forwardSubscription: ({ query = "", variables }) => ({
          subscribe: (sink) => ({ unsubscribe: socket.subscribe({ query, variables }, sink) }),
        }),
      }),
    ],
  });

for (const method of [false, "force"]) {
  const client = make(method);
  const query = gql`query Punches($n: Int) { punches(first: $n) { nodes { id pin device { name } employee { name } } } }`;
  const page = await client.query(query, { n: 2 }).toPromise();
  assert.equal(page.error, undefined);
  assert.equal(page.data.punches.nodes.length, 2);
  const nobody = await client.query(gql`{ employee(pin: "nobody") { id } }`, {}).toPromise();
  assert.equal(nobody.error.graphQLErrors[0].extensions.code, "employee_not_found");
}
const batch = await new Promise((resolve, reject) => {
  make(false)
    .subscription(gql`subscription { punches(from: BEGINNING) { cursor punches { id } } }`, {})
    .subscribe((result) => (result.error ? reject(result.error) : resolve(result)));
});
assert.equal(batch.data.punches.punches.length, 3);
await socket.dispose();
console.log("urql ok");
process.exit(0);
