// Shows what the daemon sends (criproxy/overview/page_form.py). What clients of the runtime choose,
// such as names, becomes the text of an element, and never markup, an attribute's name or a style.

const RETRY_MS = 5000; // after a refusal; the browser itself connects anew after an end
const STEPS = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };

const byId = (id) => document.getElementById(id);
const filter = byId("filter");
const pause = byId("pause");
const dialog = byId("details");

/** Returns a new element with attributes and children. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Sets a text where it differs, so that a selection in it remains. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function compare(one, other) {
  return one < other ? -1 : one > other ? 1 : 0;
}

/** A table of the page, whose rows stay the same elements as long as their keys are sent. */
class Table {
  constructor(source) {
    this.source = source;
    this.rows = new Map(); // from keys to elements
    this.by = 0; // the number of the column that rows are ordered by
    this.title = element("h2", { id: `title-${source}` });
    this.head = element("tr", { role: "row" });
    this.body = element("tbody", { role: "rowgroup" });
    this.empty = element("p", { class: "empty" }, "none");
    this.leftOut = element("p", { class: "left-out", hidden: "" });
    // The roles are those of the elements, which browsers forget of tables shown as blocks.
    this.element = element(
      "table",
      { role: "grid", "aria-labelledby": `title-${source}`, id: `table-${source}` },
      element("thead", { role: "rowgroup" }, this.head),
      this.body,
    );
    this.section = element("section", {}, this.title, this.element, this.empty, this.leftOut);
    this.body.addEventListener("keydown", (event) => this.pressed(event));
    this.body.addEventListener("click", (event) => {
      if (getSelection().isCollapsed) this.open(event.target.closest("tr"));
    });
  }

  show(sent, wanted) {
    this.sent = sent;
    const matching = sent.rows.filter(
      (row) => !wanted || row.cells.some((cell) => cell.toLowerCase().includes(wanted)),
    );
    const { by } = this;
    const sign = sent.columns[by].descending ? -1 : 1;
    matching.sort((one, other) => sign * compare(one.orders[by], other.orders[by]));
    setText(this.title, `${sent.name} (${matching.length})`);
    this.showHead(sent.columns);
    this.showRows(matching, sent.columns);
    this.empty.hidden = matching.length > 0;
    this.element.hidden = matching.length === 0;
    this.leftOut.hidden = sent.left_out === 0;
    setText(this.leftOut, `and ${sent.left_out} more, which are not shown`);
  }

  showHead(columns) {
    if (!this.head.children.length) {
      columns.forEach((column, number) => {
        const button = element("button", { type: "button" }, column.name);
        button.addEventListener("click", () => {
          this.by = number;
          show();
        });
        this.head.append(element("th", { role: "columnheader", scope: "col" }, button));
      });
    }
    [...this.head.children].forEach((cell, number) => {
      if (number !== this.by) cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", columns[number].descending ? "descending" : "ascending");
    });
  }

  showRows(matching, columns) {
    const focused = this.rowInFocus();
    const keys = new Set(matching.map((row) => row.key));
    for (const [key, made] of this.rows) if (!keys.has(key)) made.remove();
    const shown = new Map();
    let before = null;
    for (const row of matching) {
      const made = this.rows.get(row.key) ?? this.makeRow(columns);
      made.details = row.details;
      made.dataset.color = row.color;
      row.cells.forEach((cell, number) => setText(made.children[number], cell));
      shown.set(row.key, made);
      const place = before ? before.nextSibling : this.body.firstChild;
      if (made !== place) this.body.insertBefore(made, place);
      before = made;
    }
    this.rows = shown;
    const all = [...shown.values()];
    const chosen = all.find((made) => made.tabIndex === 0) ?? all[0];
    for (const made of all) made.tabIndex = made === chosen ? 0 : -1;
    if (focused && !this.rowInFocus()) (focused.isConnected ? focused : chosen)?.focus();
  }

  makeRow(columns) {
    const cells = columns.map((column) =>
      element("td", { role: "gridcell", "data-column": column.name }),
    );
    const row = element("tr", { role: "row" }, ...cells);
    row.tabIndex = -1;
    return row;
  }

  rowInFocus() {
    return this.body.contains(document.activeElement) ? document.activeElement : null;
  }

  pressed(event) {
    if (event.key === "Enter") {
      this.open(this.rowInFocus());
    } else if (event.key in STEPS) {
      const all = [...this.rows.values()];
      const next = all.indexOf(this.rowInFocus()) + STEPS[event.key];
      const chosen = all[Math.max(0, Math.min(all.length - 1, next))];
      for (const made of all) made.tabIndex = made === chosen ? 0 : -1;
      chosen.focus();
    } else {
      return;
    }
    event.preventDefault();
  }

  open(row) {
    if (!row) return;
    setText(byId("details-title"), this.sent.name);
    const pairs = row.details.flatMap(([name, text]) => [
      element("dt", {}, name),
      element("dd", {}, text),
    ]);
    dialog.querySelector("dl").replaceChildren(...pairs);
    dialog.showModal();
  }
}

const tables = new Map();
let last = null; // the last overview that was sent
let stands = null; // the one that is shown while the page is paused

function show() {
  const overview = stands ?? last;
  if (!overview) return;
  setText(byId("summary"), `${stands ? "PAUSED: " : ""}${overview.summary}`);
  for (const sent of overview.tables) {
    if (!tables.has(sent.source)) {
      tables.set(sent.source, new Table(sent.source));
      byId("tables").append(tables.get(sent.source).section);
    }
    tables.get(sent.source).show(sent, filter.value.toLowerCase());
  }
}

function tell(text, state = "") {
  byId("connection").dataset.state = state;
  setText(byId("connection"), text);
}

function setPaused(paused) {
  stands = paused ? last : null;
  pause.setAttribute("aria-pressed", String(Boolean(stands)));
  show();
}

let events = null;
let retry = 0;

function connect() {
  disconnect();
  events = new EventSource("/ui/events");
  events.addEventListener("overview", (event) => {
    last = JSON.parse(event.data);
    tell(`Live, from criproxy ${last.criproxy}`);
    show();
  });
  events.addEventListener("problem", (event) => tell(JSON.parse(event.data), "problem"));
  events.onerror = () => {
    tell("No connection to the daemon, or too many look at it; what is shown is old", "problem");
    if (events.readyState === EventSource.CLOSED) retry = setTimeout(connect, RETRY_MS);
  };
}

function disconnect() {
  clearTimeout(retry);
  events?.close();
}

filter.addEventListener("input", show);
pause.addEventListener("click", () => setPaused(!stands));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || dialog.open) return;
  if (event.key === "Escape" && event.target === filter) {
    filter.value = "";
    filter.blur();
    show();
  } else if (event.target === filter) {
    return;
  } else if (event.key === "/") {
    filter.focus();
    filter.select();
    event.preventDefault();
  } else if (event.key === "p") {
    setPaused(!stands);
  }
});
// A page that nobody sees needs no events, and leaves its place to others.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
if (!document.hidden) connect();
