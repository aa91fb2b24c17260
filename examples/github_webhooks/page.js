// Everything that comes from a delivery is put in with textContent: never as HTML.
"use strict";

const KEPT = 50;
const seen = new Set();
const $ = (id) => document.getElementById(id);

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function show(entry, isNew) {
  if (seen.has(entry.delivery)) return;
  seen.add(entry.delivery);
  const known = ["push", "issues", "pull_request", "release"].includes(entry.event);
  const item = element("li", "", isNew ? "new" : "");
  const text = element("div", entry.summary, "text");
  if (entry.repository) text.append(element("span", entry.repository, "where"));
  const when = new Date(entry.received_at);
  item.append(
    element("span", entry.event, known ? `event ${entry.event}` : "event"),
    text,
    element("time", when.toLocaleTimeString()),
  );
  const feed = $("feed");
  feed.querySelector(".empty")?.remove();
  feed.prepend(item);
  while (feed.children.length > KEPT) feed.lastElementChild.remove();
}

function table(id, head, rows) {
  const lines = [head, ...rows].map((cells, line) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell) => element(line ? "td" : "th", String(cell))));
    return row;
  });
  $(id).replaceChildren(...lines);
}

async function read(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

async function refresh() {
  const [stats, board] = await Promise.all([read("/stats"), read("/board")]);
  const topics = ["github.push", "github.issues", "github.pull_request", "github.release"];
  table(
    "repositories",
    ["repository", "push", "issues", "pulls", "releases"],
    board.repositories.map((each) => [each.name || "—", ...topics.map((t) => each.counts[t] || 0)]),
  );
  const lost = (row) => row.rejected + row.cancelled + row.released + row.abandoned;
  table(
    "ledger",
    ["subscription", "offered", "handled", "waiting", "dropped", "failed", "cut"],
    stats.subscriptions.map((row) => [
      row.name, row.offered, row.handled, row.buffered + row.in_flight, row.dropped, row.failed, lost(row),
    ]),
  );
  $("sum").textContent = stats.adds_up ? "Every event is accounted for." : "The counts do not add up.";
  $("sum").className = stats.adds_up ? "" : "bad";
  $("notified").replaceChildren(...board.notified.map((text) => element("li", text)));
}

// The ledger is polled, but only while something happens, and at most twice a second.
let planned = null;
let quiet = 0;
function refreshSoon() {
  quiet = 0;
  planned ??= setTimeout(refreshNow, 500);
}
async function refreshNow() {
  planned = null;
  try { await refresh(); } catch { return; } // the server is gone; the stream below will tell
  if (quiet++ < 6) planned ??= setTimeout(refreshNow, 500);
}

const live = new EventSource("/live");
live.onopen = async () => {
  $("state").dataset.live = "yes";
  $("state").textContent = "live";
  // Only now that new entries arrive: whatever came before is in the database.
  for (const entry of (await read("/feed")).reverse()) show(entry, false);
  refreshSoon();
};
live.onmessage = (message) => {
  show(JSON.parse(message.data), true);
  refreshSoon();
};
live.onerror = () => {
  $("state").dataset.live = "no";
  $("state").textContent = "the server is away; trying again";
};
