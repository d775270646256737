// All punches since a moment, page by page. Node 18 or newer.
const query = `query ($after: String) {
  punches(first: 100, after: $after, filter: {receivedAt: {gte: "2020-01-01T00:00:00Z"}}) {
    nodes { id localTime pin direction }
    pageInfo { hasNextPage endCursor }
  }
}`;

let after = null;
for (;;) {
  const answer = await fetch(process.env.PUNCHCONNECT_URL, {
    method: "POST",
    headers: {Authorization: `Bearer ${process.env.PUNCHCONNECT_KEY}`, "Content-Type": "application/json"},
    body: JSON.stringify({query, variables: {after}}),
  });
  const page = (await answer.json()).data.punches;
  for (const punch of page.nodes) console.log(punch.localTime, punch.pin, punch.direction);
  if (!page.pageInfo.hasNextPage) break;
  after = page.pageInfo.endCursor;
}
