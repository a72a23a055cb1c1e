
const NAMES = new Map(Object.entries(DATA.behaviours));
const strongest = (latent) => Math.max(0, ...latent.contexts.map((context) => context.value));
const wanted = (latent, behaviour) => (behaviour ? latent.wanted_by[behaviour] ?? 0 : Math.max(0, ...Object.values(latent.wanted_by)));

const ORDERS = {
  value: ["highest value first", (latent, behaviour) => -wanted(latent, behaviour)],
  sparse: ["lowest density first", (latent) => latent.density],
  dense: ["highest density first", (latent) => -latent.density],
  active: ["highest activation first", (latent) => -strongest(latent)],
  number: ["by number", (latent) => latent.latent],
};

// Spaces and line ends that a reader would not see.
const visible = (token) => token.replaceAll(" ", "␣").replaceAll("\n", "↵");
const oneLine = (text) => text.replaceAll("\n", "↵");
const percent = (density) => `${(100 * density).toPrecision(2)} %`;

function inLatent(latent, want, search) {
  if (want.behaviour && !(want.behaviour in latent.wanted_by)) return false;
  const texts = [...latent.promotes, ...latent.contexts.map((c) => c.before + c.token + c.after)];
  return !search || texts.some((text) => text.search(search) >= 0);
}

function contextLine(context, highest, search) {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${highest ? (100 * context.value) / highest : 0}%`;
  return el("li", {},
    el("span", { class: "activation" }, el("span", { class: "bar", "aria-hidden": "true" }, fill), context.value.toPrecision(3)),
    el("span", { class: "text", dir: "auto" }, found(oneLine(context.before), search), el("mark", { class: "token" }, found(oneLine(context.token), search)), found(oneLine(context.after), search)));
}

function card(latent, want, search) {
  const by = Object.entries(latent.wanted_by).sort(([, x], [, y]) => y - x);
  const chips = by.map(([key, value]) => el("li", key === want.behaviour ? { class: "current" } : {}, `${NAMES.get(key)} `, el("b", {}, value.toPrecision(3))));
  return el("article", { class: "card" },
    el("h3", {}, `Latent ${latent.latent}`),
    el("p", { class: "meta" }, `fires on ${percent(latent.density)} of tokens`),
    by.length ? el("div", { class: "row" }, el("h4", {}, "Wanted by"), el("ul", { class: "chips" }, chips)) : null,
    el("div", { class: "row" }, el("h4", {}, "Promotes"), el("ul", { class: "chips tokens" }, latent.promotes.map((token) => el("li", { dir: "auto" }, found(visible(token), search))))),
    el("h4", {}, "Contexts of the highest activation"),
    el("ol", { class: "contexts" }, latent.contexts.map((context) => contextLine(context, strongest(latent), search))));
}

function update(want) {
  const search = pattern(want.q);
  const key = ORDERS[want.sort][1];
  const shown = DATA.latents.filter((latent) => inLatent(latent, want, search));
  shown.sort((x, y) => key(x, want.behaviour) - key(y, want.behaviour) || x.latent - y.latent);
  document.getElementById("status").textContent = shown.length ? `${plural(shown.length, "latent")} of ${DATA.latents.length.toLocaleString("en")}` : "No latent passes these filters.";
  showCards(shown, (latent) => card(latent, want, search));
}

setOptions("behaviour", [["", "all"], ...NAMES]);
setOptions("sort", Object.entries(ORDERS).map(([name, [label]]) => [name, label]));
new Filters({ behaviour: "", sort: "value", q: "" }, () => {}, update).fromAddress();
