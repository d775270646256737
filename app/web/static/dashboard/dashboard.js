// Every page works without this. It shows times as this browser has them, asks before what cannot be undone, and copies.
"use strict";
const localTime = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "medium"});
for (const time of document.querySelectorAll("time")) {
  time.title = time.textContent;
  time.textContent = localTime.format(new Date(time.dateTime));
}
// Whoever signs out in one tab has signed out in all: a page without a session makes the others look whether they have one.
const tabs = new BroadcastChannel("punchconnect");
if (document.querySelector('form[action="/dashboard/sign-out"]')) {
  tabs.addEventListener("message", async () => {
    const answer = await fetch("/dashboard/plan", {redirect: "manual"}).catch(() => null); // the server may be away
    if (answer?.type === "opaqueredirect") location.assign("/dashboard/sign-in");
  });
} else tabs.postMessage("");
document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm;
  const again = event.target.dataset.sent !== undefined;
  if (again || (question && !window.confirm(question))) event.preventDefault();
  // A second click would hide what the first one shows. It is counted as one for as long as people click by mistake.
  else if (event.target.method === "post") {
    event.target.dataset.sent = "";
    setTimeout(() => delete event.target.dataset.sent, 3000);
  }
});
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}
for (const file of document.querySelectorAll("[data-into]")) {
  file.addEventListener("change", async () => {
    if (file.files[0]) document.getElementById(file.dataset.into).value = await file.files[0].text();
  });
}
for (const zone of document.querySelectorAll("[data-zone]")) {
  if (!zone.value) zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone;
}
const watched = document.querySelector("[data-watch]");
if (watched) {
  const look = async () => {
    try {
      const answer = await fetch(watched.dataset.watch, {redirect: "manual"});
      if (answer.ok) {
        const state = await answer.json();
        if (state.status !== watched.dataset.status || state.connection !== watched.dataset.connection) location.reload();
      }
    } catch { /* the server is away; look again */ }
    setTimeout(look, 2000);
  };
  look();
}
const followed = document.querySelector("[data-follow]");
if (followed) {
  const bar = followed.querySelector("progress"), count = followed.querySelector("[data-count]");
  const look = async () => {
    try {
      const answer = await fetch(followed.dataset.follow, {redirect: "manual"});
      if (answer.ok) {
        const {status, done, total} = await answer.json();
        if (status !== "RUNNING") return location.reload();
        bar.max = Math.max(total ?? 0, done, 1);
        bar.value = done;
        count.textContent = `${done} of ${total ?? "…"} ended`;
      }
    } catch { /* the server is away; look again */ }
    setTimeout(look, 500);
  };
  look();
}
