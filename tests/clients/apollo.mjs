// Apollo Client: a query, a mutation that fails by userErrors, an error with its code, pages merged by cursor, and the
// live feed over graphql-ws.
import assert from "node:assert/strict";
import { ApolloClient, ApolloLink, CombinedGraphQLErrors, HttpLink, InMemoryCache, gql } from "@apollo/client";
import { GraphQLWsLink } from "@apollo/client/link/subscriptions";
import { relayStylePagination } from "@apollo/client/utilities";
import { createClient } from "graphql-ws";
import WebSocket from "ws";

const [url, key] = process.argv.slice(2);
const authorization = `Bearer ${key}`;
const socket = createClient({
  url: url.replace("http", "ws"),
  webSocketImpl: WebSocket,
  connectionParams: { authorization },
});
const client = new ApolloClient({
  cache: new InMemoryCache({ typePolicies: { Query: { fields: { sites: relayStylePagination() } } } }),
  link: ApolloLink.split(
    ({ operationType }) => operationType === "subscription",
    new GraphQLWsLink(socket),
    new HttpLink({ uri: url, headers: { authorization } }),
  ),
});

const viewer = await client.query({ query: gql`{ viewer { tenant { id name } } }` });
assert.match(viewer.data.viewer.tenant.id, /^ten_/);

const create = gql`
  mutation Create($input: SiteCreateInput!) {
    siteCreate(input: $input) { site { id name } userErrors { code path } idempotentReplay }
  }
`;
for (let number = 0; number < 5; number += 1) {
  const input = { name: `Apollo ${number}`, timeZone: "Africa/Casablanca", idempotencyKey: `apollo-${number}` };
  const { data } = await client.mutate({ mutation: create, variables: { input } });
  assert.deepEqual(data.siteCreate.userErrors, []);
}
const refused = await client.mutate({ mutation: create, variables: { input: { name: "x", timeZone: "Mars" } } });
assert.equal(refused.data.siteCreate.userErrors[0].code, "time_zone_unknown");

const error = await client.query({ query: gql`{ device(serialNumber: "nobody") { id } }` }).catch((caught) => caught);
assert.ok(CombinedGraphQLErrors.is(error));
assert.equal(error.errors[0].extensions.code, "device_not_found");

const sites = gql`
  query Sites($after: String) {
    sites(first: 2, after: $after) { edges { cursor node { id name } } pageInfo { hasNextPage endCursor startCursor hasPreviousPage } }
  }
`;
let after = null;
for (;;) {
  const { data } = await client.query({ query: sites, variables: { after }, fetchPolicy: "network-only" });
  if (!data.sites.pageInfo.hasNextPage) break;
  after = data.sites.pageInfo.endCursor;
}
const page = { data: client.readQuery({ query: sites }) };
const names = page.data.sites.edges.map(({ node }) => node.name);
assert.deepEqual(names.filter((name) => name.startsWith("Apollo")), [0, 1, 2, 3, 4].map((n) => `Apollo ${n}`));

const batch = await new Promise((resolve, reject) => {
  client
    .subscribe({ query: gql`subscription { punches(from: BEGINNING) { cursor caughtUp punches { id pin device { id } } } }` })
    .subscribe({ next: resolve, error: reject });
});
assert.ok(batch.data.punches.cursor.length > 10);
assert.equal(batch.data.punches.punches.length, 3);
await socket.dispose();
client.stop();
console.log("apollo ok");
process.exit(0);
