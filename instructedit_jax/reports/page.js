"use strict";
// Rows of `data.rows`; see browsing.py for what each place holds.
const TASK = 0, ID = 1, PROMPT = 2, TARGET = 3, TOLD = 4, RUN = 5, QUERY = 6;
const MASKS = 7, ITEMS = 8, FLUENCY = 9;
const PAGE = 40;
const LETTERS = { reliability: "R", generalization: "G", locality: "L", portability: "P" };
const FIELDS = ["task", "editor", "query", "result", "judge", "search"];
const $ = (id) => document.getElementById(id);

let data = null;
let lower = []; // the texts in lower case, made when first searched
let alike = new Map(); // record, query -> its rows under every run
let shown = [];
let first = 0;
let only = ""; // one record, asked for by its address

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  // Children are text or nodes, never markup.
  node.append(...children.filter((c) => c !== null && c !== undefined && c !== ""));
  return node;
}

// Writing direction inside a text must not turn what stands beside it.
const isolated = (value) => make("span", { class: "text" }, value);
const text = (place) => (place === undefined || place < 0 ? "" : data.strings[place]);
const editorOf = (row) => data.runs[row[RUN]][0];
const failure = (row) => row.length === 5; // an entry of data.failed
const recordKey = (row) => row[TASK] + "/" + row[ID] + "/" + row[QUERY];

async function unpack(encoded) {
  const raw = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// A failed evaluation as a row that the filters understand.
function asRow(f) {
  return { length: 5, [TASK]: f[0], [ID]: f[1], [PROMPT]: f[1], [TARGET]: -1,
    [TOLD]: -1, [RUN]: f[2], [QUERY]: f[3], reason: f[4] };
}

function fill(id, places) {
  for (const place of new Set(places)) {
    $(id).append(make("option", { value: text(place) }, text(place)));
  }
}

function matching(words) {
  if (!words) return null;
  if (!lower.length) lower = data.strings.map((s) => s.toLowerCase());
  const found = new Set();
  lower.forEach((s, place) => { if (s.includes(words)) found.add(place); });
  return found;
}

function holds(row, found) {
  if ([ID, PROMPT, TARGET].some((field) => found.has(row[field]))) return true;
  if (failure(row)) return found.has(row.reason);
  return row[ITEMS].some((item) => {
    const question = data.questions[item[0]];
    return found.has(item[1]) || found.has(item[2]) || found.has(item[9]) ||
      found.has(item[10]) || found.has(question[3]) || question[4].some((a) => found.has(a));
  });
}

function wanted() {
  const value = Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));
  const found = matching(value.search.trim().toLowerCase());
  const offset = value.judge === "free" ? 2 : 0;
  const bit = 1 << data.kinds.indexOf(value.result);
  const task = value.task, editor = value.editor, query = value.query;
  return (row) => {
    if (only && text(row[ID]) !== only) return false;
    if (task && text(row[TASK]) !== task) return false;
    if (editor && text(editorOf(row)) !== editor) return false;
    if (query && text(row[QUERY]) !== query) return false;
    if (value.result === "lost") { if (!failure(row)) return false; }
    else if (value.result) {
      if (failure(row)) return false;
      const failed = row[MASKS][offset], asked = row[MASKS][offset + 1];
      if (value.result === "held" ? failed || !asked : value.result === "any" ? !failed : !(failed & bit)) return false;
    }
    return !found || holds(row, found);
  };
}

function chips(row) {
  const span = make("span", { class: "chips" });
  if (failure(row)) {
    span.append(make("span", { class: "bad" }, "not evaluated"));
    return span;
  }
  const offset = $("judge").value === "free" ? 2 : 0;
  data.kinds.forEach((kind, i) => {
    if (!(row[MASKS][offset + 1] >> i & 1)) return;
    const bad = row[MASKS][offset] >> i & 1;
    span.append(make("span", { class: bad ? "bad" : "good", title: kind, role: "img",
      "aria-label": kind + (bad ? " failed" : " held") }, LETTERS[kind] + (bad ? "✗" : "✓")));
  });
  return span;
}

// What the model made of the edited prompt, before and after.
function change(row) {
  const item = failure(row) ? null : row[ITEMS].find((i) => text(data.questions[i[0]][0]) === "reliability");
  if (!item) return failure(row) ? text(row.reason) : "";
  const free = item[10] >= 0 && item[9] >= 0;
  const said = (place) => text(place).trim() || "∅";
  return said(free ? item[9] : item[1]) + " → " + said(free ? item[10] : item[2]);
}

function entry(row) {
  const summary = make("summary", {},
    make("span", { class: "prompt text" }, text(row[PROMPT])),
    chips(row),
    make("span", { class: "change text" }, change(row) + (row[TARGET] >= 0 ? "  (wanted: " + text(row[TARGET]) + ")" : "")),
    make("span", { class: "place" }, isolated(text(editorOf(row))), " · ", isolated(text(row[QUERY])), " · ",
      isolated(text(row[TASK])), " · ", isolated(text(row[ID]))));
  const node = make("details", { class: "record" }, summary);
  node.addEventListener("toggle", () => {
    if (node.open && node.children.length === 1) node.append(body(row));
  });
  return node;
}

function number(value, unit) {
  return value === null || value === undefined ? "" : String(value) + (unit || "");
}

function verdict(value) {
  if (value === null || value === undefined) return "";
  return make("span", { class: value >= 1 ? "good" : "bad" }, (value >= 1 ? "✓" : "✗") + " ");
}

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)));
  const lines = rows.map((cells) => make("tr", {}, ...cells.map((children, i) =>
    make("td", { "data-head": heads[i] }, ...children))));
  return make("table", { class: "items" }, make("thead", {}, head), make("tbody", {}, ...lines));
}

function answer(forced, free, verdictForced, verdictFree) {
  const parts = [verdict(verdictForced), make("span", { class: "text" }, text(forced).trim() || "∅")];
  if (free !== undefined && free >= 0) {
    parts.push(make("span", { class: "free" }, "free: ", verdict(verdictFree), make("span", { class: "text" }, text(free))));
  }
  return parts;
}

function questionLine(item) {
  const [metric, kind, told, prompt, answers] = data.questions[item[0]];
  const local = text(metric) === "locality";
  const name = text(metric) + (metric === kind ? "" : ", " + text(kind));
  // Replies of either sentiment are compared with each other, none is right.
  const unwanted = text(kind) === "opposite";
  const reply = unwanted || text(kind) === "same";
  const scores = [];
  if (item[6] !== null && item[6] !== undefined) scores.push("tokens " + Math.round(100 * item[6]) + " %");
  if (item[8] !== null && item[8] !== undefined) scores.push("KL " + item[8]);
  if (item[3] !== null && item[3] !== undefined) scores.push("log p " + number(item[3]) + " → " + number(item[4]));
  return [
    [name],
    [told >= 0 ? make("span", { class: "free text" }, text(told).trim()) : "", make("span", { class: "text" }, text(prompt))],
    local ? ["as before"] : [unwanted ? "rather not: " : "", make("span", { class: "text" }, answers.map(text).join(" | "))],
    answer(item[1], item[9]),
    reply ? answer(item[2], item[10]) : answer(item[2], item[10], item[5], item[7]),
    [scores.join(", ")],
  ];
}

function body(row) {
  const node = make("div", { class: "body" });
  if (failure(row)) {
    node.append(make("p", { class: "text" }, text(row.reason)));
    return node;
  }
  const address = "#record=" + encodeURIComponent(text(row[ID]));
  node.append(
    make("p", {}, "Edit: ", make("span", { class: "text" }, text(row[PROMPT])), " ⇒ ", make("b", { class: "text" }, text(row[TARGET]))),
    make("p", {}, "Instruction of the edit: ", make("span", { class: "text" }, text(row[TOLD]) || "none")),
    make("p", { class: "place" }, isolated(text(data.runs[row[RUN]][1])), " · ", make("a", { href: address }, "only this record")),
    table(["asked for", "prompt", "wanted", "before", "after", "measured"], row[ITEMS].map(questionLine)));
  const others = alike.get(recordKey(row)) || [];
  if (others.length > 1) {
    node.append(make("h3", {}, "The same record under every editor"), table(
      ["editor", "before → after", "result"],
      others.map((other) => [
        [isolated(text(editorOf(other))), other === row ? " (this one)" : ""],
        [make("span", { class: "text" }, change(other))],
        [chips(other)],
      ])));
  }
  if (row[FLUENCY] >= 0) {
    node.append(make("h3", {}, "Text whose fluency was measured"), make("p", { class: "text" }, text(row[FLUENCY])));
  }
  return node;
}

function draw() {
  const last = Math.min(first + PAGE, shown.length);
  $("list").replaceChildren(...shown.slice(first, last).map(entry));
  const total = data.rows.length + data.failed.length;
  $("count").textContent = shown.length + " of " + total + " evaluated records" +
    (only ? ", only record " + only : "") + (shown.length ? "" : ". Clear the filters to see all.");
  $("where").textContent = shown.length ? first + 1 + "–" + last + " of " + shown.length : "";
  $("back").disabled = first === 0;
  $("next").disabled = last >= shown.length;
}

function refilter() {
  shown = data.failed.concat(data.rows).filter(wanted());
  first = 0;
  draw();
}

// The filters live in the address, so that a view can be linked to.
function remember() {
  const parts = FIELDS.filter((id) => $(id).value).map((id) => id + "=" + encodeURIComponent($(id).value));
  if (only) parts.push("record=" + encodeURIComponent(only));
  try {
    history.replaceState(null, "", parts.length ? "#" + parts.join("&") : "#records");
  } catch (error) { /* some browsers forbid it for files; nothing depends on it */ }
}

function recall() {
  const parts = location.hash.slice(1).split("&").map((part) => {
    const at = part.indexOf("=");
    let value = "";
    try { value = decodeURIComponent(part.slice(at + 1)); } catch (error) { /* not ours */ }
    return at < 0 ? [part, ""] : [part.slice(0, at), value];
  }).filter(([name]) => FIELDS.includes(name) || name === "record");
  if (!parts.length) return false;
  for (const id of FIELDS) $(id).value = "";
  only = "";
  for (const [name, value] of parts) {
    if (name === "record") only = value;
    else $(name).value = value;
  }
  return true;
}

function turn(step) {
  first = Math.max(0, first + step * PAGE);
  draw();
  $("records").scrollIntoView();
  $("list").querySelector("summary")?.focus({ preventScroll: true });
}

function theme() {
  $("theme").hidden = false;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });
}

async function start() {
  theme();
  if (typeof DecompressionStream === "undefined") {
    $("count").textContent = "Browsing records needs a browser of 2023 or later.";
    return;
  }
  data = await unpack($("data").textContent.trim());
  data.failed = data.failed.map(asRow);
  const all = data.failed.concat(data.rows);
  for (const row of data.rows) {
    const key = recordKey(row);
    alike.has(key) ? alike.get(key).push(row) : alike.set(key, [row]);
  }
  fill("task", all.map((row) => row[TASK]));
  fill("editor", all.map(editorOf));
  fill("query", all.map((row) => row[QUERY]));
  $("result").append(
    make("option", { value: "any" }, "any failure"),
    ...data.kinds.map((kind) => make("option", { value: kind }, kind + " failed")),
    make("option", { value: "held" }, "all held"));
  if (data.failed.length) $("result").append(make("option", { value: "lost" }, "not evaluated"));
  const free = data.rows.some((row) => row[MASKS][3]);
  if (!free) $("judge").parentNode.hidden = true;
  let timer = 0;
  $("filters").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { only = ""; refilter(); remember(); }, 120);
  });
  $("filters").addEventListener("reset", () => setTimeout(() => { only = ""; refilter(); remember(); }));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("back").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  addEventListener("hashchange", () => {
    if (recall()) { refilter(); $("records").scrollIntoView(); }
  });
  const asked = recall();
  refilter();
  if (asked) $("records").scrollIntoView();
}

start().catch((error) => {
  $("count").textContent = "The records could not be read: " + error.message;
});
