"use strict";
// Sorts tables by a click on a head, and opens a cell's samples in a panel. Without it, the page
// reads the same: cells link to their samples further down.
(() => {
  const keyOf = (cell) => {
    const value = cell.dataset.v;
    return value === undefined ? null : Number(value);
  };
  const sortBy = (table, column, ascending) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, place) => ({ row, place, cell: row.cells[column] }));
    const numeric = rows.some((entry) => keyOf(entry.cell) !== null);
    rows.sort((a, b) => {
      const order = numeric
        ? compareNumbers(keyOf(a.cell), keyOf(b.cell), ascending)
        : (ascending ? 1 : -1) * a.cell.textContent.localeCompare(b.cell.textContent, "en", { numeric: true });
      return order || a.place - b.place;
    });
    body.append(...rows.map((entry) => entry.row));
  };
  // What has no number stays last in both directions.
  const compareNumbers = (a, b, ascending) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return ascending ? a - b : b - a;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const numeric = [...table.tBodies[0].rows].some((row) => keyOf(row.cells[column]) !== null);
        const before = head.getAttribute("aria-sort");
        const ascending = before ? before === "descending" : !numeric;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        sortBy(table, column, ascending);
      });
    });
  }
  const panel = document.getElementById("panel");
  const content = document.getElementById("panel-content");
  const find = (anchor) => {
    const target = document.getElementById(anchor);
    if (!target) return null;
    // A cell without samples links to its data set's block.
    const entry = target.matches("tr") ? target.querySelector("th").textContent : null;
    return { block: target.closest("details"), entry };
  };
  const open = (anchor) => {
    const found = find(anchor);
    if (!found) return false;
    const copy = found.block.cloneNode(true);
    const heading = document.createElement("h3");
    heading.textContent = copy.querySelector("summary").textContent;
    copy.querySelector("summary").remove();
    for (const element of copy.querySelectorAll("[id]")) element.removeAttribute("id");
    // What was clicked comes first: its state, then its answer before those of the others.
    for (const row of copy.querySelectorAll(".answers tr")) {
      if (row.querySelector("th").textContent !== found.entry) continue;
      row.classList.add("chosen");
      row.parentElement.prepend(row);
    }
    const states = copy.querySelector(".states");
    for (const item of states.children) {
      if (item.querySelector("b").textContent === found.entry) heading.append(document.createElement("br"), item.textContent);
    }
    states.remove();
    content.replaceChildren(heading, ...copy.childNodes, states);
    panel.showModal();
    panel.scrollTop = 0;
    return true;
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.cell");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && open(link.hash.slice(1))) {
      event.preventDefault();
    } else if (event.target === panel) {
      panel.close();
    }
  });
  const reveal = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    for (let block = target && target.closest("details"); block; block = block.parentElement.closest("details")) block.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();
})();
