"use strict";
// Shared by both pages: elements, the search, the form of filters and its copy in the address. Text reaches the page
// as text nodes only, so that nothing the model wrote is read as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const STEP = 30; // cards added at a time

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) made.setAttribute(name, value);
  for (const child of children.flat()) {
    if (child === null) continue;
    made.append(child instanceof Node ? child : document.createTextNode(child));
  }
  return made;
}

// A pattern that finds what was typed, letter case aside; null for nothing.
function pattern(typed) {
  return typed.trim() ? new RegExp(typed.trim().replace(/[\^$\\.*+?()[\]{}|\/]/g, "\\$&"), "giu") : null;
}

// The text as nodes, with what the pattern finds marked.
function found(text, search) {
  if (!search) return [document.createTextNode(text)];
  const nodes = [];
  let end = 0;
  for (const hit of text.matchAll(search)) {
    nodes.push(document.createTextNode(text.slice(end, hit.index)), el("mark", { class: "hit" }, hit[0]));
    end = hit.index + hit[0].length;
  }
  return [...nodes, document.createTextNode(text.slice(end))];
}

function setOptions(name, options) {
  const select = form.elements[name];
  const before = select.value;
  select.replaceChildren(...options.map(([value, label]) => el("option", { value }, label)));
  select.value = options.some(([value]) => value === before) ? before : options[0][0];
}

const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

// Cards of the items, STEP at a time; the button adds more.
function showCards(items, card) {
  const cards = document.getElementById("cards");
  const more = document.getElementById("more");
  let shown = 0;
  const add = () => {
    cards.append(...items.slice(shown, shown + STEP).map(card));
    shown = Math.min(shown + STEP, items.length);
    more.hidden = shown === items.length;
    more.textContent = `Show ${Math.min(STEP, items.length - shown)} more of ${(items.length - shown).toLocaleString("en")}`;
  };
  cards.replaceChildren();
  more.onclick = add;
  add();
}

// The filters, their copy in the address's fragment, and update(), called when either changes.
class Filters {
  constructor(defaults, prepare, update) {
    Object.assign(this, { defaults, prepare, update });
    form.addEventListener("input", (event) => this.changed(event.target.type === "search" ? 150 : 0));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      this.write(this.defaults);
      this.changed(0);
    });
    window.addEventListener("hashchange", () => this.fromAddress());
  }

  get values() {
    const entries = Object.keys(this.defaults).map((name) => {
      const control = form.elements[name];
      return [name, control.type === "checkbox" ? (control.checked ? "1" : "0") : control.value];
    });
    return Object.fromEntries(entries);
  }

  write(values) {
    for (const [name, value] of Object.entries(values)) {
      const control = form.elements[name];
      if (control.type === "checkbox") control.checked = value === "1";
      else if (control.tagName !== "SELECT" || [...control.options].some((o) => o.value === value)) control.value = value;
      else control.value = this.defaults[name];
      this.prepare();
    }
  }

  fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    const values = Object.keys(this.defaults).map((name) => [name, given.get(name) ?? this.defaults[name]]);
    this.write(Object.fromEntries(values));
    this.update(this.values);
  }

  // The fragment that brings these filters back: what differs from the defaults.
  fragment(values) {
    const differing = Object.entries(values).filter(([name, value]) => value !== this.defaults[name]);
    return `#${new URLSearchParams(differing)}`;
  }

  changed(wait) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.prepare();
      history.replaceState(null, "", this.fragment(this.values));
      this.update(this.values);
    }, wait);
  }
}
