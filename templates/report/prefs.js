// Shows the items of the page: a list to search and filter, and one item at a time. Everything from the data becomes
// text nodes and properties, never markup. prefs.html.jinja holds the elements, prefs.css the looks.
"use strict";

const ROW = 92; // height of a row of the list in pixels, as in prefs.css
const BEGINNING = 140; // characters of the best answer in a row, about what two lines hold
const SPARE_ROWS = 6; // drawn above and below what is visible
const MOST_CELLS = 4_000_000; // of the table that compares two answers: about 2,000 words each
const MODES = {
  differences: ["Differences", "Each level against the one before it: underlined is new, struck through is gone."],
  chunks: ["Noun chunks", "Straight underline: found in level 0. Wavy underline: not found there. Other text was not compared."],
  plain: ["Plain", "Nothing is marked."],
};

const { items, overview } = JSON.parse(document.getElementById("data").textContent);
const [list, rows, item, content, search, filters, count, message, help, numbers] = [
  "list", "rows", "item", "content", "search", "filters", "count", "message", "help", "numbers",
].map((id) => document.getElementById(id));

let images = null; // base64 JPEGs; they stand at the end of the page and are read when it is whole
let shown = items.map((_, number) => number); // numbers of the items that the list holds
let place = 0; // where in `shown` the chosen item is
let haystacks = null; // the text of each item that is searched, made at the first search
let addressTimer = 0;

const modes = Object.keys(MODES).filter((name) => name !== "chunks" || items.some(hasMarks));
let mode = modes.includes("chunks") ? "chunks" : "differences";

// ---- small things

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function textOf(answer) {
  return typeof answer === "string" ? answer : answer.map(([text]) => text).join("");
}

function hasMarks(one) {
  return one.levels.some((level) => level.answers.some((answer) => typeof answer !== "string"));
}

function wordsOf(text) {
  return text.match(/\S+/g)?.length ?? 0;
}

function spelled(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// Words between the longest and the shortest level, all rounds together.
function lengthDifference(one) {
  one.difference ??= (() => {
    const lengths = one.levels.map((level) => level.answers.reduce((sum, answer) => sum + wordsOf(textOf(answer)), 0));
    return Math.max(...lengths) - Math.min(...lengths);
  })();
  return one.difference;
}

// ---- differences between two answers

const WORD = /\s*(?:[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]|[\p{L}\p{M}\p{N}]+(?:['’-][\p{L}\p{M}\p{N}]+)*|\S)/gu;

// Return runs [text, kind] of both answers in reading order, kind "same", "removed" or "added"; null for too long ones.
// A longest common subsequence of words; each word carries the space before it.
function compareWords(before, after) {
  const old = before.match(WORD) ?? [];
  const fresh = after.match(WORD) ?? [];
  const oldWords = old.map((word) => word.trim());
  const freshWords = fresh.map((word) => word.trim());
  const height = old.length, width = fresh.length;
  if (height * width > MOST_CELLS) return null;
  const step = width + 1;
  const common = new Uint16Array((height + 1) * step); // longest common part of what follows (row, column)
  for (let row = height - 1; row >= 0; row--) {
    for (let column = width - 1; column >= 0; column--) {
      const at = row * step + column;
      common[at] = oldWords[row] === freshWords[column]
        ? common[at + step + 1] + 1
        : Math.max(common[at + step], common[at + 1]);
    }
  }
  const runs = [];
  let removed = "", added = "", row = 0, column = 0;
  const close = (next) => {
    if (removed && /^[\p{L}\p{N}]/u.test(added || next)) removed += " "; // else it would touch the next word
    if (removed) runs.push([removed, "removed"]);
    if (added) runs.push([added, "added"]);
    removed = added = "";
  };
  while (row < height || column < width) {
    if (row < height && column < width && oldWords[row] === freshWords[column]) {
      close(fresh[column]);
      if (runs.at(-1)?.[1] === "same") runs.at(-1)[0] += fresh[column];
      else runs.push([fresh[column], "same"]);
      row++;
      column++;
    } else if (column === width || (row < height && common[(row + 1) * step + column] >= common[row * step + column + 1])) {
      removed += old[row++];
    } else {
      added += fresh[column++];
    }
  }
  close("");
  return runs;
}

function differenceNodes(before, after) {
  const runs = compareWords(before, after);
  if (runs === null) return [after, make("p", { className: "quiet" }, "Too long to compare word by word.")];
  return runs.flatMap(([text, kind]) => {
    if (kind === "same") return [text];
    const space = text.match(/^\s*/)[0];
    return [space, make(kind === "added" ? "ins" : "del", {}, text.slice(space.length))];
  });
}

function markedNodes(answer) {
  if (typeof answer === "string") return [answer];
  const titles = { supported: "found in level 0", unsupported: "not found in level 0" };
  return answer.map(([text, state]) =>
    state === "plain" ? text : make("span", { className: state, title: titles[state] }, text));
}

// ---- the chosen item

function imageOf(number, alt) {
  const image = make("img", { alt, decoding: "async" });
  if (images) image.src = `data:image/jpeg;base64,${images[number]}`;
  return image;
}

function levelNode(one, number, round) {
  const level = one.levels[number];
  const text = textOf(level.answers[round]);
  let length = spelled(wordsOf(text), "word");
  if (number > 0) {
    const more = wordsOf(text) - wordsOf(textOf(one.levels[number - 1].answers[round]));
    length += ` (${more < 0 ? "−" : "+"}${Math.abs(more)})`;
  }
  const checked = [];
  if (round === 0 && level.accuracy !== null) checked.push(`accuracy ${level.accuracy.toFixed(2)}`);
  if (round === 0 && level.score !== null) checked.push(`score ${level.score.toFixed(2)}`);
  let nodes = [text];
  if (mode === "chunks") nodes = markedNodes(level.answers[round]);
  if (mode === "differences" && number > 0) nodes = differenceNodes(textOf(one.levels[number - 1].answers[round]), text);
  return make("section", { className: number ? "level" : "level best", ariaLabel: `Level ${number}` },
    make("h4", {}, `${number} · ${level.source}${number ? "" : " (best)"}`),
    make("p", { className: "quiet" }, length),
    make("p", { className: "quiet" }, checked.join(" · ")),
    make("div", { className: "answer", dir: "auto" }, ...nodes));
}

function drawItem() {
  const one = items[shown[place]];
  document.getElementById("previous").disabled = !one || place === 0;
  document.getElementById("next").disabled = !one || place === shown.length - 1;
  document.getElementById("place").textContent = one ? `${(place + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}` : "";
  document.getElementById("legend").textContent = one ? MODES[mode][1] : "";
  if (!one) {
    const clear = make("button", { type: "button" }, "Clear search and filters");
    clear.addEventListener("click", clearAll);
    content.replaceChildren(make("p", { className: "empty" }, "No item matches the search and the filters."), clear);
    return;
  }
  const facts = [spelled(one.levels.length, "level"), spelled(one.questions.length, "round")];
  if (one.dataset) facts.unshift(one.dataset);
  const top = make("div", { className: "top" });
  if (one.images.length || one.missing.length) {
    top.append(make("div", { className: "images" },
      ...one.images.map((number, index) => imageOf(number, `Image ${index + 1} of ${one.id}`)),
      ...one.missing.map((reason) => make("p", { className: "missing" }, reason))));
  }
  top.append(make("div", {}, make("h2", {}, one.id), make("p", { className: "quiet" }, facts.join(" · "))));
  content.replaceChildren(top);
  one.questions.forEach((question, round) => {
    const levels = make("div", { className: "levels", tabIndex: 0, role: "group", ariaLabel: `Answers of round ${round + 1}` },
      ...one.levels.map((_, number) => levelNode(one, number, round)));
    levels.style.setProperty("--levels", one.levels.length);
    content.append(make("h3", { className: "question", dir: "auto" }, question), levels);
  });
  if (one.meta) content.append(make("details", {}, make("summary", {}, "Other fields"), make("pre", {}, one.meta)));
  content.setAttribute("aria-label", `Item ${one.id}`);
  highlightTerms();
}

// Show where the searched words are. A word that a mark cuts in two is found but not highlighted.
function highlightTerms() {
  if (!("highlights" in CSS)) return; // Firefox before 140
  const ranges = [];
  const terms = termsOf(search.value);
  const walker = document.createTreeWalker(content, NodeFilter.SHOW_TEXT);
  while (terms.length && walker.nextNode()) {
    const text = walker.currentNode.data.toLowerCase();
    if (text.length !== walker.currentNode.length) continue; // a letter whose small form is longer would shift all others
    for (const term of terms) {
      for (let at = text.indexOf(term); at >= 0; at = text.indexOf(term, at + term.length)) {
        const range = new Range();
        range.setStart(walker.currentNode, at);
        range.setEnd(walker.currentNode, at + term.length);
        ranges.push(range);
      }
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

// ---- the list: only the rows in sight exist

const drawn = new Map(); // place -> row

function rowNode(at) {
  const one = items[shown[at]];
  const image = one.images.length
    ? imageOf(one.images[0], "")
    : make("span", { className: "blank" }, one.missing.length ? "missing" : "text");
  const facts = [one.id, spelled(one.levels.length, "level"), one.dataset].filter(Boolean);
  const row = make("div", { className: "row", id: `row-${at}`, role: "option" }, image,
    make("span", { className: "beginning", dir: "auto" }, textOf(one.levels[0].answers[0]).slice(0, BEGINNING)),
    make("span", { className: "asked", dir: "auto" }, one.questions[0]),
    make("span", { className: "quiet" }, facts.join(" · ")));
  row.style.top = `${at * ROW}px`;
  row.setAttribute("aria-setsize", shown.length);
  row.setAttribute("aria-posinset", at + 1);
  row.addEventListener("click", () => show(at));
  return row;
}

function drawList() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE_ROWS);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE_ROWS);
  for (const [at, row] of drawn) {
    if (at < first || at >= last) {
      row.remove();
      drawn.delete(at);
    }
  }
  for (let at = first; at < last; at++) {
    if (!drawn.has(at)) {
      drawn.set(at, rowNode(at));
      rows.append(drawn.get(at));
    }
    drawn.get(at).setAttribute("aria-selected", at === place);
  }
  if (drawn.has(place)) list.setAttribute("aria-activedescendant", `row-${place}`);
  else list.removeAttribute("aria-activedescendant");
}

function redrawList() {
  drawn.clear();
  rows.replaceChildren();
  rows.style.height = `${shown.length * ROW}px`;
  drawList();
}

// ---- choosing

function choose(at) {
  place = Math.max(0, Math.min(shown.length - 1, at));
  const top = place * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  item.scrollTop = 0;
  drawList();
  drawItem();
  // browsers refuse an address that changes many times a second
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => {
    if (shown.length) history.replaceState(null, "", `#${encodeURIComponent(items[shown[place]].id)}`);
  }, 150);
}

function open(at) {
  document.body.classList.add("reading");
  choose(at);
  content.focus({ preventScroll: true }); // or the image would be scrolled away
}

// Where list and item stand side by side the list keeps the keys.
function show(at) {
  if (matchMedia("(max-width: 760px)").matches) {
    open(at);
  } else {
    choose(at);
    list.focus();
  }
}

function backToList() {
  document.body.classList.remove("reading");
  choose(place); // a list that was not shown has not scrolled
  list.focus();
}

function showMode(name) {
  mode = name;
  for (const button of document.querySelectorAll(".modes button")) {
    button.setAttribute("aria-pressed", button.dataset.mode === mode);
  }
  drawItem();
}

function idInAddress() {
  const written = location.hash.slice(1);
  try {
    return decodeURIComponent(written);
  } catch (error) {
    if (error instanceof URIError) return written; // a % that stands for itself
    throw error;
  }
}

function followAddress() {
  const id = idInAddress();
  message.hidden = true;
  if (!id) return;
  const number = items.findIndex((one) => one.id === id);
  if (number < 0) {
    message.textContent = `There is no item '${id}' on this page.`;
    message.hidden = false;
    return;
  }
  if (!shown.includes(number)) clearAll();
  show(shown.indexOf(number));
}

// ---- searching and filtering

function termsOf(query) {
  return [...query.toLowerCase().matchAll(/"([^"]+)"|([^\s"]+)/g)].map((found) => found[1] ?? found[2]);
}

function haystackOf(one) {
  return [one.id, ...one.questions, ...one.levels.flatMap((level) => level.answers.map(textOf))].join("\n").toLowerCase();
}

function matches(one, wanted) {
  return (!wanted.levels || one.levels.length === Number(wanted.levels))
    && (!wanted.rounds || one.questions.length === Number(wanted.rounds))
    && (!wanted.dataset || one.dataset === JSON.parse(wanted.dataset))
    && (!wanted.source || one.levels.some((level) => level.source === JSON.parse(wanted.source)))
    && (!wanted.images || (wanted.images === "missing" ? one.missing.length > 0
      : (one.images.length + one.missing.length > 0) === (wanted.images === "with")))
    && (wanted.difference === "" || lengthDifference(one) > Number(wanted.difference));
}

// Keep the chosen item where it still matches, else take the first that does.
function applyFilters() {
  const terms = termsOf(search.value);
  const wanted = Object.fromEntries(new FormData(filters));
  if (terms.length) haystacks ??= items.map(haystackOf);
  const chosen = shown[place];
  shown = [];
  items.forEach((one, number) => {
    if (matches(one, wanted) && terms.every((term) => haystacks[number].includes(term))) shown.push(number);
  });
  count.textContent = shown.length === items.length
    ? spelled(items.length, "item") : `${shown.length.toLocaleString("en")} of ${spelled(items.length, "item")}`;
  message.hidden = true;
  document.body.classList.remove("reading");
  place = Math.max(0, shown.indexOf(chosen));
  redrawList();
  choose(place);
}

function clearAll() {
  search.value = "";
  filters.reset();
  applyFilters();
}

function toggleFilters(visible) {
  filters.hidden = !visible;
  document.getElementById("filters-button").setAttribute("aria-expanded", visible);
  drawList();
  (visible ? filters.elements[0] : list).focus();
}

// Fill a choice with "any" and the values that occur, as [value, text]; without a choice, the field goes.
function offer(name, choices) {
  const field = filters.elements[name];
  field.append(...[["", "any"], ...choices].map(([value, text]) => make("option", { value }, text)));
  field.closest("label").hidden = choices.length < 2;
}

function offerFilters() {
  const numbersOf = (values) => [...new Set(values)].sort((one, other) => one - other).map((value) => [value, value]);
  // names may be empty or look like "any", so they travel as JSON
  const namesOf = (values) => [...new Set(values)].sort().map((value) => [JSON.stringify(value), value || "(not named)"]);
  offer("levels", numbersOf(items.map((one) => one.levels.length)));
  offer("rounds", numbersOf(items.map((one) => one.questions.length)));
  offer("source", namesOf(items.flatMap((one) => one.levels.map((level) => level.source))));
  offer("dataset", namesOf(items.map((one) => one.dataset)));
  const missing = items.some((one) => one.missing.length) ? [["missing", "not found"]] : [];
  offer("images", [["with", "with images"], ["without", "text only"], ...missing]);
}

// ---- the whole set

function fillNumbers() {
  document.getElementById("facts").append(
    ...overview.facts.map(([value, what]) => make("span", {}, make("b", {}, value), what)));
  document.getElementById("tables").append(...overview.tables.map((table) => make("table", {},
    make("caption", {}, table.title),
    make("thead", {}, make("tr", {}, ...table.columns.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...table.rows.map(([first, ...rest]) =>
      make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((cell) => make("td", {}, cell))))))));
}

// ---- keys

function leave() {
  if (document.activeElement === search) list.focus();
  else if (!filters.hidden) toggleFilters(false);
  else backToList();
}

const KEYS = {
  j: () => choose(place + 1),
  k: () => choose(place - 1),
  ArrowRight: () => choose(place + 1),
  ArrowLeft: () => choose(place - 1),
  "/": () => { search.focus(); search.select(); },
  f: () => toggleFilters(filters.hidden),
  d: () => showMode(modes[(modes.indexOf(mode) + 1) % modes.length]),
  s: () => numbers.showModal(),
  "?": () => help.showModal(),
};
const LIST_KEYS = {
  ArrowDown: () => choose(place + 1),
  ArrowUp: () => choose(place - 1),
  PageDown: () => choose(place + 10),
  PageUp: () => choose(place - 10),
  Home: () => choose(0),
  End: () => choose(shown.length - 1),
  Enter: () => { if (shown.length) open(place); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (document.querySelector("dialog[open]")) return; // closes itself with Escape
  const target = event.target;
  const action = (() => {
    if (event.key === "Escape") return leave;
    if (target === search) return event.key === "Enter" ? LIST_KEYS.Enter : undefined;
    if (target.matches("input, select")) return undefined;
    if (target.matches(".levels") && event.key.startsWith("Arrow")) return undefined; // scrolls
    const inList = target === list || target === document.body;
    return KEYS[event.key] ?? (inList ? LIST_KEYS[event.key] : undefined);
  })();
  if (action) {
    event.preventDefault();
    action();
  }
});

// ---- start

document.getElementById("filters-button").addEventListener("click", KEYS.f);
document.getElementById("numbers-button").addEventListener("click", KEYS.s);
document.getElementById("help-button").addEventListener("click", KEYS["?"]);
document.getElementById("previous").addEventListener("click", KEYS.k);
document.getElementById("next").addEventListener("click", KEYS.j);
document.getElementById("back").addEventListener("click", backToList);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds the item's id
  open(place);
});
document.querySelector(".modes").append(...modes.map((name) => {
  const button = make("button", { type: "button" }, MODES[name][0]);
  button.dataset.mode = name;
  button.addEventListener("click", () => showMode(name));
  return button;
}));
search.addEventListener("input", applyFilters);
filters.addEventListener("input", applyFilters);
filters.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("clear").addEventListener("click", clearAll);
list.addEventListener("scroll", drawList, { passive: true });
window.addEventListener("resize", drawList);
window.addEventListener("hashchange", followAddress);
document.addEventListener("DOMContentLoaded", () => {
  images = JSON.parse(document.getElementById("images").textContent);
  redrawList();
  drawItem();
});

offerFilters();
fillNumbers();
redrawList();
count.textContent = spelled(items.length, "item");
showMode(mode);
followAddress();
if (!location.hash) list.focus();
