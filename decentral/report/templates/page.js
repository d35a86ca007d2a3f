// Legends of a page, tables to sort and filter, and pages that follow a run.

// Make the entries of a page's legend switches of all figures.
function legend(list, figures) {
  for (const entry of list.querySelectorAll("[data-run]")) {
    const button = make("button", { type: "button", "aria-pressed": "true" });
    button.append(...entry.childNodes);
    entry.append(button);
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      for (const figure of figures) figure.toggle(entry.dataset.run, shown);
      for (const other of document.querySelectorAll("[data-run]"))
        if (other.dataset.run === entry.dataset.run)
          other.querySelector("button").setAttribute("aria-pressed", shown);
    });
  }
}

// --- tables -----------------------------------------------------------------------

const FEW = 8; // Rows that nobody has to search.

function table(scroll) {
  const body = scroll.querySelector("tbody"), rows = [...body.rows];
  if (rows.length < 2) return;
  const heads = [...scroll.querySelectorAll("thead th")];
  heads.forEach((head, k) => {
    const button = make("button", { type: "button", class: "sort" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(heads, k, body, rows));
  });
  if (rows.length > FEW) scroll.before(filter(scroll, rows));
}

function sort(heads, k, body, rows) {
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  const order = next[heads[k].getAttribute("aria-sort") || "none"];
  for (const head of heads) head.removeAttribute("aria-sort");
  if (order !== "none") heads[k].setAttribute("aria-sort", order);
  const sign = order === "descending" ? -1 : 1, numeric = heads[k].classList.contains("number");
  const text = (row) => row.cells[k].textContent.trim();
  const sorted = order === "none" ? rows : [...rows].sort((a, b) => {
    if (!numeric) return sign * text(a).localeCompare(text(b), "en", { numeric: true });
    const [x, y] = [measure(text(a)), measure(text(b))];
    // What was not measured comes last, whichever way.
    return Number.isNaN(x) - Number.isNaN(y) || sign * (x - y) || 0;
  });
  body.append(...sorted);
}

function filter(scroll, rows) {
  const line = make("label", { class: "filter" }, "Filter ");
  const field = make("input", { type: "search", "aria-label": "Filter the rows" });
  const count = make("output");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const cells = [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" ");
      row.hidden = !words.every((word) => cells.includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? `${shown} of ${rows.length}` : "";
  });
  line.append(field, count);
  return line;
}

// --- the page ---------------------------------------------------------------------

function explore() {
  const figures = [...document.querySelectorAll("figure[data-plot]")].map((one) => new Figure(one));
  for (const one of document.querySelectorAll(".legend")) legend(one, figures);
  for (const one of document.querySelectorAll(".scroll")) table(one);
  document.documentElement.classList.add("explored");
}

// Whether somebody has chosen something that a new page would undo.
function chosen() {
  return document.querySelector(".back:not([hidden]), [aria-pressed=false], [aria-sort], svg:focus")
    || [...document.querySelectorAll(".filter input")].some((one) => one.value);
}

// Ask whether the page has changed, and show the new one in place of the old.
async function follow(address) {
  const status = document.querySelector("footer").appendChild(make("output"));
  let seen = null;
  for (;;) {
    try {
      const version = await (await fetch(address, { cache: "no-store" })).text();
      if (seen !== null && version !== seen && !document.hidden) {
        if (chosen()) {
          status.textContent = " There is news; it is shown once nothing is zoomed or chosen.";
        } else {
          const text = await (await fetch(location.href, { cache: "no-store" })).text();
          const main = new DOMParser().parseFromString(text, "text/html").querySelector("main");
          document.querySelector("main").replaceWith(document.adoptNode(main));
          explore();
          seen = version;
          status.textContent = "";
        }
      }
      seen ??= version;
    } catch {
      status.textContent = " The server does not answer; this is what it said last.";
    }
    await new Promise((done) => setTimeout(done, 2000));
  }
}

explore();
if (document.body.dataset.live) follow(document.body.dataset.live);
