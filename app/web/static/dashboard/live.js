// The feed as it happens. EventSource comes back by itself and sends the last cursor along, so nothing is missed.
"use strict";
(() => {
  const MOST = 200;
  const body = document.getElementById("punches"), state = document.getElementById("state");
  const start = JSON.parse(body.dataset.start);
  const seen = new Set(), counts = new Map(start.rate.map((m) => [m.minute, m.count]));
  const word = (text) => text.replaceAll("_", " ");

  function cell(kind, ...parts) {
    const made = document.createElement(kind);
    made.append(...parts);
    return made;
  }
  function tag(text) {
    const made = cell("span", text);
    made.className = "tag late";
    return made;
  }
  function add(punch, fresh) {
    if (seen.has(punch.id)) return false;
    seen.add(punch.id);
    const who = cell("th", punch.who ?? `PIN ${punch.pin}`);
    who.scope = "row";
    const where = cell("a", punch.where);
    where.href = `/dashboard/devices/${punch.device}`;
    const when = cell("td", `${punch.local} `);
    when.title = punch.zone;
    if (punch.late) when.append(tag(`late ${punch.late}`));
    const row = cell("tr", who, cell("td", where), when, cell("td", word(punch.direction)), cell("td", word(punch.verify)));
    row.dataset.punch = punch.id;
    if (fresh) row.className = "fresh";
    body.prepend(row);
    while (body.children.length > MOST) {
      seen.delete(body.lastChild.dataset.punch);
      body.lastChild.remove();
    }
    return true;
  }

  const minuteOf = (seconds) => Math.floor(seconds / 60) * 60;
  let chart = null;
  function series() {
    const last = minuteOf(Date.now() / 1000);
    const minutes = Array.from({length: start.minutes}, (_, n) => last - 60 * (start.minutes - 1 - n));
    for (const minute of counts.keys()) if (minute < minutes[0]) counts.delete(minute);
    return [minutes, minutes.map((minute) => counts.get(minute) ?? 0)];
  }
  function draw() {
    const data = series();
    document.getElementById("now").textContent = data[1].at(-1);
    document.getElementById("total").textContent = data[1].reduce((a, b) => a + b, 0);
    const rows = data[0].map((minute, n) => cell("tr",
      cell("td", new Date(minute * 1000).toLocaleTimeString([], {hour: "2-digit", minute: "2-digit"})), cell("td", String(data[1][n]))));
    document.getElementById("minutes").replaceChildren(...rows.reverse());
    document.getElementById("nothing").hidden = body.children.length > 0;
    if (chart) chart.setData(data);
    else build(data);
  }
  function build(data) {
    const place = document.getElementById("chart"), style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {stroke: colour("--soft"), grid: {stroke: colour("--line"), width: 1}, ticks: {stroke: colour("--line"), width: 1}};
    const size = () => ({width: Math.max(place.clientWidth - 18, 200), height: 180});
    chart = new uPlot({
      ...size(), legend: {show: false}, cursor: {show: false},
      scales: {y: {range: (_, low, high) => [0, Math.max(high, 4)]}},
      axes: [{...axis, values: "{HH}:{mm}"}, {...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10000]}],
      series: [{}, {stroke: colour("--accent"), fill: `${colour("--accent")}33`, width: 2, paths: uPlot.paths.bars({size: [0.8]}), points: {show: false}}],
    }, data, place);
    new ResizeObserver(() => chart.setSize(size())).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { chart.destroy(); chart = null; draw(); });
  }

  function say(name, text) {
    state.dataset.state = name;
    state.textContent = text;
  }
  for (const punch of start.punches) add(punch, false);
  draw();
  setInterval(draw, 5000);

  let cursor = body.dataset.after;
  const url = () => `/dashboard/live/events?after=${encodeURIComponent(cursor)}`;
  function leave() {
    say("ended", "signed out");
    location.assign("/dashboard/sign-in");
  }
  async function again() {
    try {
      const answer = await fetch(url(), {redirect: "manual"});
      await answer.body?.cancel();
      if (answer.type === "opaqueredirect") return leave();
    } catch { /* the server is away */ }
    setTimeout(connect, 1000);
  }
  function connect() {
    const source = new EventSource(url());
    source.addEventListener("open", () => say("live", "live"));
    source.addEventListener("error", () => {
      say("waiting", "reconnecting");
      // Refused with a status, not merely cut off: then the browser does not come back by itself.
      if (source.readyState === EventSource.CLOSED) setTimeout(again, 1000);
    });
    source.addEventListener("ended", () => {
      source.close();
      leave();
    });
    source.addEventListener("message", (event) => {
      cursor = event.lastEventId || cursor;
      for (const punch of JSON.parse(event.data).punches) {
        if (add(punch, true)) {
          const minute = minuteOf(Date.parse(punch.received) / 1000);
          counts.set(minute, (counts.get(minute) ?? 0) + 1);
        }
      }
      draw();
    });
  }
  connect();
})();
