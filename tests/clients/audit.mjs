// Every check of the GraphQL-over-HTTP audit suite, one line each; exit code 1 unless all are ok.
import { auditServer } from "graphql-http";

const [url, key] = process.argv.slice(2);
const results = await auditServer({
  url,
  fetchFn: (address, init = {}) =>
    fetch(address, { ...init, headers: { ...init.headers, authorization: `Bearer ${key}` } }),
});
for (const result of results) {
  console.log(`${result.status} ${result.id} ${result.name}${result.status === "ok" ? "" : `: ${result.reason}`}`);
}
console.log(`${results.filter(({ status }) => status === "ok").length} of ${results.length} ok`);
process.exit(results.length > 50 && results.every(({ status }) => status === "ok") ? 0 : 1);
