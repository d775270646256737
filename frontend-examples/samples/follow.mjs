// Punches as they happen. Goes on where it was after a lost connection. Node 18 or newer; in a browser the same.
const query = "subscription { punches { cursor punches { localTime pin direction } } }";
const headers = {
  Authorization: `Bearer ${process.env.PUNCHCONNECT_KEY}`,
  "Content-Type": "application/json",
  Accept: "text/event-stream",
};

function take(line) {
  if (!line.startsWith("data: ")) return;
  const {data, errors} = JSON.parse(line.slice(6));
  if (errors) throw new Error(errors[0].message);
  for (const punch of data.punches.punches) console.log(punch.localTime, punch.pin, punch.direction);
  headers["Last-Event-ID"] = data.punches.cursor; // after what was done with the batch, never before
}

for (;;) {
  const dead = new AbortController();
  let watchdog;
  // The server says something every 15 seconds: after 40 of silence the connection is dead.
  const hear = () => { clearTimeout(watchdog); watchdog = setTimeout(() => dead.abort(), 40_000); };
  const lines = [];
  try {
    hear();
    const answer = await fetch(process.env.PUNCHCONNECT_URL, {method: "POST", headers, body: JSON.stringify({query}), signal: dead.signal});
    if (!answer.ok && answer.status < 500 && answer.status !== 429) process.exit(1);
    let rest = "";
    for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
      hear();
      lines.push(...(rest + part).split("\n"));
      rest = lines.pop();
      if (answer.ok) lines.splice(0).forEach(take);
    }
  } catch (problem) {
    if (!["TypeError", "AbortError"].includes(problem.name)) throw problem;
  }
  clearTimeout(watchdog);
  await new Promise((done) => setTimeout(done, 1000));
}
