
const UNIT = 10 ** DATA.digits;
const METHODS = new Map(DATA.methods.map(([key, label, colour], order) => [key, { label, colour, order }]));
const NAMES = new Map(DATA.behaviours.map((key, i) => [key, DATA.names[i]]));
const LABELLED = new Map(DATA.labels.map(([row, target, ...labels]) => [`${row} ${target}`, labels]));
const LISTED = 60; // cells of the table, at most

// A group is a cell as one behaviour sees it: texts without a behaviour's vector are scored for every behaviour.
const groups = [];
const cellOf = [];
const unsteered = new Map(); // draw: row
let start = 0;
DATA.cells.rows.forEach((rows, i) => {
  const cell = Object.fromEntries(Object.entries(DATA.cells).map(([name, column]) => [name, column[i]]));
  Object.assign(cell, { start, end: start + rows });
  for (let row = start; row < start + rows; row++) {
    cellOf.push(cell);
    if (cell.method === "unsteered") unsteered.set(DATA.draw[row], row);
  }
  DATA.behaviours.forEach((key, target) => {
    if (cell.behaviour !== key && cell.behaviour !== "shared") return;
    groups.push({ cell, target, key, chosen: cell.chosen.includes(key) });
  });
  start += rows;
});
const byPlace = (a, b) => a.target - b.target || METHODS.get(a.cell.method).order - METHODS.get(b.cell.method).order ||
  a.cell.split.localeCompare(b.cell.split) || a.cell.scale - b.cell.scale || a.cell.variant.localeCompare(b.cell.variant);
groups.sort(byPlace);

const behaviourScore = (row, target) => (Array.isArray(DATA.B[row]) ? DATA.B[row][target] : DATA.B[row]);
const product = ({ row, target }) => {
  const [b, c] = [behaviourScore(row, target), DATA.C[row]];
  return b === null || c === null ? null : (b / UNIT) * (c / UNIT);
};
const fixed = (score, digits) => (score === null ? "no score" : score.toFixed(digits));
const spelled = (variant) => variant.replaceAll(",", ", ") || "only one";
const scaled = (scale) => (scale ? String(scale) : "0 (no vector)");

function mean(scores) {
  const given = scores.filter((score) => score !== null);
  return given.length ? given.reduce((sum, score) => sum + score, 0) / given.length / UNIT : null;
}

function means(rows, target) {
  const [B, C] = [mean(rows.map((row) => behaviourScore(row, target))), mean(rows.map((row) => DATA.C[row]))];
  return { B, C, BCS: B === null || C === null ? null : B * C };
}

const ORDERS = {
  draw: ["as drawn", null],
  best: ["highest B × C first", (item) => product(item), -1],
  worst: ["lowest B × C first", (item) => product(item), 1],
  b: ["highest B first", ({ row, target }) => behaviourScore(row, target), -1],
  c: ["highest C first", ({ row }) => DATA.C[row], -1],
};

function sorted(items, order) {
  const [, key, sign] = ORDERS[order];
  if (!key) return items.sort((x, y) => DATA.draw[x.row] - DATA.draw[y.row] || byPlace(x.group, y.group));
  const missing = (value) => (value === null ? Infinity : sign * value);
  return items.map((item) => [missing(key(item)), item]).sort(([x], [y]) => (x === y ? 0 : x - y)).map(([, item]) => item);
}

function inGroup(group, want) {
  const { cell } = group;
  return (!want.behaviour || group.key === want.behaviour) && (!want.method || cell.method === want.method) &&
    (!want.variant || cell.variant === want.variant.slice(1)) && (!want.scale || String(cell.scale) === want.scale) &&
    (!want.split || cell.split === want.split) && (want.chosen === "0" || group.chosen);
}

function keptRows({ cell, target }, want, search) {
  const [b, c] = [Number(want.b) * UNIT, Number(want.c) * UNIT];
  const kept = [];
  for (let row = cell.start; row < cell.end; row++) {
    if (b && !(behaviourScore(row, target) >= b)) continue;
    if (c && !(DATA.C[row] >= c)) continue;
    if (search && DATA.text[row].search(search) < 0) continue;
    kept.push(row);
  }
  return kept;
}

function dot(method) {
  const made = el("span", { class: "dot", "aria-hidden": "true" });
  made.style.setProperty("--method", METHODS.get(method).colour);
  return made;
}

function figure(name, value) {
  return el("div", { class: "figure" }, el("span", { class: "value" }, fixed(value, 4)), el("span", { class: "name" }, name));
}

function bar(value, method) {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${100 * (value ?? 0)}%`;
  if (method) fill.style.setProperty("--bar", METHODS.get(method).colour);
  return el("span", { class: "bar", "aria-hidden": "true" }, fill);
}

// One cell: its three numbers, what is missing from it, and the unsteered texts of the same draws.
function oneCell({ cell, target, key, rows }) {
  const score = means(rows, target);
  const plain = means(rows.map((row) => unsteered.get(DATA.draw[row])), target);
  const texts = cell.end - cell.start;
  const notes = [];
  if (rows.length < texts) notes.push(`Only the ${rows.length} of ${plural(texts, "text")} that pass the search and the minimum scores count here: these are not the scores of the cell.`);
  if (texts < cell.of) notes.push(`${texts} of the cell's ${cell.of} texts are on this page; all are in data/samples/${cell.split}.parquet.`);
  if (cell.method !== "unsteered" && rows.length) notes.push(`Unsteered texts of the same draws: mean B ${fixed(plain.B, 4)}, mean C ${fixed(plain.C, 4)}, BCS ${fixed(plain.BCS, 4)}.`);
  return [
    el("h2", {}, dot(cell.method), `${METHODS.get(cell.method).label}, ${NAMES.get(key)}`),
    el("p", { class: "meta" }, about(cell)),
    el("div", { class: "figures" }, figure("mean B", score.B), figure("mean C", score.C), figure("BCS", score.BCS)),
    ...notes.map((note) => el("p", { class: "note" }, note)),
  ];
}

const about = (cell) => [
  cell.variant ? spelled(cell.variant) : null, cell.scale ? `scale ${cell.scale} (norm ${cell.coeff})` : "no vector", cell.split,
].filter(Boolean).join(" · ");

// Several cells: one line each; the method's name leads to the cell alone.
function cellTable(shown, want) {
  const scores = new Map(shown.map((group) => [group, means(group.rows, group.target)]));
  const columns = [
    ["Method", (g) => el("a", { href: filters.fragment({ ...want, behaviour: g.key, method: g.cell.method, variant: `=${g.cell.variant}`, scale: String(g.cell.scale), split: g.cell.split }) }, dot(g.cell.method), METHODS.get(g.cell.method).label)],
    want.behaviour ? null : ["Behaviour", (g) => NAMES.get(g.key)],
    ["BCS", (g) => [bar(scores.get(g).BCS, g.cell.method), fixed(scores.get(g).BCS, 4)], "number"],
    ["Mean B", (g) => fixed(scores.get(g).B, 4), "number"],
    ["Mean C", (g) => fixed(scores.get(g).C, 4), "number"],
    ["Texts", (g) => String(g.rows.length), "number"],
    ["Scale", (g) => (g.cell.scale ? String(g.cell.scale) : "–"), "number"],
    ["Variant", (g) => g.cell.variant.replaceAll(",", ", ") || "–"],
    want.split ? null : ["Split", (g) => g.cell.split],
  ].filter(Boolean);
  const head = el("tr", {}, columns.map(([name, , kind]) => el("th", { scope: "col", class: kind ?? "" }, name)));
  const lines = shown.slice(0, LISTED).map((g) => el("tr", {}, columns.map(([, value, kind]) => el("td", { class: kind ?? "" }, value(g)))));
  const table = el("table", {}, el("thead", {}, head), el("tbody", {}, lines));
  return [el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Scores of the cells" }, table), averageNote(shown, scores, want)];
}

// The average over behaviours that the results give, where the filter is just what it is taken over.
function averageNote(shown, scores, want) {
  const all = shown.filter((g) => scores.get(g).BCS !== null);
  if (!want.method || !want.split || want.chosen === "0" || new Set(all.map((g) => g.key)).size < all.length) return null;
  const total = all.reduce((sum, g) => sum + scores.get(g).BCS, 0);
  return el("p", { class: "note" }, `Average BCS over ${plural(all.length, "behaviour")}: `, el("b", { id: "average" }, fixed(all.length ? total / all.length : null, 4)));
}

let unfolded = null; // what the reader did to the table, if anything

function summary(shown, want) {
  const place = document.getElementById("summary");
  place.hidden = !shown.length;
  if (shown.length === 1) return place.replaceChildren(...oneCell(shown[0]));
  const limit = shown.length > LISTED ? `, the first ${LISTED} listed` : "";
  const heading = el("summary", {}, `Scores of the ${plural(shown.length, "cell")}${limit}`);
  heading.addEventListener("click", () => { unfolded = !details.open; });
  const details = el("details", {}, heading, ...cellTable(shown, want).filter(Boolean));
  details.open = unfolded ?? shown.length <= 16;
  const narrowed = want.b || want.c || want.q.trim();
  place.replaceChildren(details, ...(narrowed ? [el("p", { class: "note" }, "Search and minimum scores narrow the texts: these are not the scores of the cells.")] : []));
}

function scoreLine(row, target) {
  const [b, c] = [behaviourScore(row, target), DATA.C[row]].map((score) => (score === null ? null : score / UNIT));
  return el("p", { class: "scores" }, ...[["B", b], ["C", c]].map(([name, value]) => el("span", {}, `${name} `, el("b", {}, fixed(value, 3)), bar(value))),
    el("span", {}, "B × C ", el("b", {}, fixed(product({ row, target }), 3))));
}

// A text with its opener in bold and what was searched for marked.
function written(row, search) {
  const text = DATA.text[row];
  const prompt = DATA.draws.prompt[DATA.draw[row]];
  const after = text.startsWith(prompt) ? prompt.length : 0;
  const opener = after ? el("b", { class: "opener" }, found(text.slice(0, after), search)) : null;
  return el("p", { class: "text", dir: "auto" }, opener, found(text.slice(after), search));
}

function card({ row, target, group }, search) {
  const { cell } = group;
  const draw = DATA.draw[row];
  const labels = LABELLED.get(`${row} ${target}`);
  const plain = cell.method === "unsteered" ? null : unsteered.get(draw);
  const side = (title, of) => el("section", {}, el("h4", {}, title), written(of, search), scoreLine(of, target));
  const made = el("article", { class: "card" },
    el("h3", {}, dot(cell.method), `${METHODS.get(cell.method).label}, ${NAMES.get(group.key)}`, group.chosen ? el("span", { class: "badge" }, "chosen") : null),
    el("p", { class: "meta" }, `${about(cell)} · sample ${DATA.draws.sample[draw] + 1} after “${DATA.draws.prompt[draw]}”`),
    el("div", { class: plain === null ? "" : "pair" }, side(cell.method === "prompting" ? "Prompted" : plain === null ? "Unsteered" : "Steered", row),
      plain === null ? null : side("Unsteered, same random numbers", plain)),
    labels ? el("p", { class: "labels" }, `Labels of two annotators (language models), 0 to 3: behaviour ${labels[0]} and ${labels[1]}, coherence ${labels[2]} and ${labels[3]}`) : null);
  made.style.setProperty("--method", METHODS.get(cell.method).colour);
  return made;
}

function update(want) {
  const search = pattern(want.q);
  const shown = groups.filter((group) => inGroup(group, want));
  for (const group of shown) group.rows = keptRows(group, want, search);
  const cells = want.b || want.c || search ? shown.filter((group) => group.rows.length || shown.length === 1) : shown;
  const items = cells.flatMap((group) => group.rows.map((row) => ({ row, target: group.target, group })));
  const none = want.chosen === "1" ? " Chosen cells only is on, and a method has one of them for a behaviour." : "";
  document.getElementById("status").textContent = items.length ? `${plural(items.length, "text")} in ${plural(cells.length, "cell")}` : `No text passes these filters.${none}`;
  summary(cells, want);
  showCards(sorted(items, want.sort), (item) => card(item, search));
}

const distinct = (values) => [...new Set(values)];
setOptions("behaviour", [...NAMES, ["", "all"]]);
setOptions("method", [["", "all"], ...DATA.methods]);
setOptions("scale", [["", "all"], ...distinct(DATA.cells.scale).sort((a, b) => a - b).map((s) => [String(s), scaled(s)])]);
setOptions("split", [["test", "test"], ["validation", "validation"], ["", "both"]]);
setOptions("sort", Object.entries(ORDERS).map(([key, [label]]) => [key, label]));

// Which variants there are depends on the method; `=` before one tells the empty variant from all of them.
function variantOptions() {
  const method = form.elements.method.value;
  const there = distinct(DATA.cells.variant.filter((_, i) => !method || DATA.cells.method[i] === method)).sort();
  setOptions("variant", [["", "all"], ...there.map((variant) => [`=${variant}`, spelled(variant)])]);
}
variantOptions();

const out = DATA.left_out;
document.getElementById("rest").textContent =
  `${plural(cellOf.length, "text")} ${cellOf.length === 1 ? "is" : "are"} on this page; ${out ? `${plural(out, "text")} of cells that are less in question ${out === 1 ? "was" : "were"} left out to keep it small` : "none was left out"}. The whole is in data/samples/test.parquet and data/samples/validation.parquet. A text of a method that knows no behaviour is scored, and listed, once for each.`;
const defaults = { behaviour: DATA.behaviours[0], method: "", variant: "", scale: "", split: "test", sort: "draw", b: "", c: "", q: "", chosen: "1" };
const filters = new Filters(defaults, variantOptions, update);
filters.fromAddress();
