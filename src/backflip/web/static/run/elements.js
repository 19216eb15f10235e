// Small pieces of the page; what comes from the run becomes text, never markup.

export function element(name, classes, parent, text) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Let a node say something; left alone where it says so already, for whoever has selected it. */
export function tell(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function button(parent, text, act, classes = "") {
  const made = element("button", classes, parent, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

/** Two or more choices of which one is in force; act(value) when another is chosen. */
export function choiceOf(parent, label, choices, chosen, act) {
  const group = element("div", "switch", parent);
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", label);
  const buttons = new Map();
  const choose = (value) => {
    for (const [name, one] of buttons) one.setAttribute("aria-pressed", String(name === value));
  };
  for (const [value, text] of choices) {
    buttons.set(value, button(group, text, () => {
      choose(value);
      act(value);
    }));
  }
  choose(chosen);
  return { group, choose };
}

/** A button that asks once more before it acts. */
export function doubtful(parent, text, question, act, classes = "") {
  let sure = null;
  const made = button(parent, text, () => {
    if (sure === null) {
      tell(made, question);
      made.dataset.asking = "";
      sure = setTimeout(settle, 4000);
    } else {
      settle();
      act();
    }
  }, classes);
  const settle = () => {
    clearTimeout(sure);
    sure = null;
    tell(made, text);
    delete made.dataset.asking;
  };
  made.addEventListener("blur", settle);
  return made;
}

let toastEnds;

/** Say for a few seconds that something was done, or why it was not. */
export function toast(text, kind = "ok") {
  const where = byId("toast");
  tell(where, text);
  where.dataset.kind = kind;
  where.hidden = false;
  clearTimeout(toastEnds);
  toastEnds = setTimeout(() => { where.hidden = true; }, kind === "ok" ? 4000 : 9000);
}

/** A number in large, with its name above and more about it below. */
export class Tile {
  constructor(parent, name, classes = "") {
    const card = element("article", `tile card ${classes}`, parent);
    element("h2", "", card, name);
    this.value = element("b", "", card, "–");
    this.more = element("p", "", card, "\u00a0");
  }

  tell(value, more = "\u00a0") {
    tell(this.value, value);
    tell(this.more, more);
  }
}

/** A table whose rows are kept: what did not change stays as it is, selected or not. columns: [title, row -> text or node, classes]. */
export class Table {
  #rows = new Map(); // by key: {row, cells}

  constructor(parent, columns, classes = "") {
    this.columns = columns;
    this.table = element("table", classes, parent);
    const head = element("tr", "", element("thead", "", this.table));
    for (const [title, , kind] of columns) element("th", kind, head, title).scope = "col";
    this.body = element("tbody", "", this.table);
  }

  /** Show these, in this order; entries: [[key, what]]. */
  show(entries) {
    const kept = new Set(entries.map(([key]) => key));
    for (const [key, { row }] of this.#rows) {
      if (!kept.has(key)) {
        row.remove();
        this.#rows.delete(key);
      }
    }
    let before = null;
    for (const [key, what] of entries) {
      if (!this.#rows.has(key)) {
        const row = document.createElement("tr");
        this.#rows.set(key, { row, cells: this.columns.map(([, , kind]) => element("td", kind, row)) });
      }
      const { row, cells } = this.#rows.get(key);
      this.columns.forEach(([, fill], i) => fillCell(cells[i], fill(what, cells[i])));
      const place = before === null ? this.body.firstChild : before.nextSibling;
      if (place !== row) this.body.insertBefore(row, place);
      before = row;
    }
  }
}

function fillCell(cell, content) {
  if (content instanceof Node) {
    if (cell.firstChild !== content) cell.replaceChildren(content);
  } else if (content !== undefined) tell(cell, content);
}

/** "‹ 2 of 5 ›" for lists that come in pages; act(page). */
export class Pager {
  constructor(parent, act) {
    this.page = 1;
    this.nav = element("nav", "pager", parent);
    this.nav.setAttribute("aria-label", "Pages");
    this.back = button(this.nav, "‹ back", () => act(this.page - 1), "plain");
    this.where = element("span", "hint", this.nav);
    this.on = button(this.nav, "more ›", () => act(this.page + 1), "plain");
    this.nav.hidden = true;
  }

  show(page, pages) {
    this.page = page;
    this.nav.hidden = pages < 2;
    tell(this.where, `${page} of ${pages}`);
    this.back.disabled = page <= 1;
    this.on.disabled = page >= pages;
  }
}
