"use strict";
// Sorts tables by a click on a head, opens a cell's samples in a panel, filters what is shown and
// sets two models' answers side by side. Without it, the page reads the same, unfiltered: cells
// link to their samples further down.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  for (const element of all(".scripted")) element.hidden = false;

  // Sorting. What has no number stays last in both directions; parts of a table stay apart.
  const keyOf = (cell) => (cell.dataset.v === undefined ? null : Number(cell.dataset.v));
  const compareNumbers = (a, b, ascending) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return ascending ? a - b : b - a;
  };
  const rowsOf = (body) => [...body.rows].filter((row) => !row.matches(".part"));
  const sortBy = (body, column, ascending, numeric) => {
    const rows = rowsOf(body).map((row, place) => ({ row, place, cell: row.cells[column] }));
    rows.sort((a, b) => {
      const order = numeric
        ? compareNumbers(keyOf(a.cell), keyOf(b.cell), ascending)
        : (ascending ? 1 : -1) * a.cell.textContent.localeCompare(b.cell.textContent, "en", { numeric: true });
      return order || a.place - b.place;
    });
    body.append(...rows.map((entry) => entry.row));
  };
  for (const table of all("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const bodies = [...table.tBodies];
        const numeric = bodies.flatMap(rowsOf).some((row) => keyOf(row.cells[column]) !== null);
        const before = head.getAttribute("aria-sort");
        const ascending = before ? before === "descending" : !numeric;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        for (const body of bodies) sortBy(body, column, ascending, numeric);
      });
    });
  }

  // Filtering. Texts that name no model, benchmark or length of the filter are left alone.
  const form = byId("filters").querySelector("form");
  const boxes = all("input[name=model]", form);
  const models = new Set(boxes.map((box) => box.value));
  const listOf = (select) => [...select.options].slice(1).map((option) => option.value);
  const benchmarks = listOf(form.elements.benchmark);
  const lengths = new Set([...listOf(form.elements.tokens), "all"]);
  const benchmarkOf = (text) =>
    benchmarks.find((name) => text.startsWith(name) && !/^[\w-]/.test(text.slice(name.length)));
  // A floor goes with the model that it stands below.
  const lineOf = (text) => text.replace(/ \((last window|no context)\)$/, "");
  const nameOf = (row) => row.cells[0].textContent;
  const scoreOf = (row) => row.cells[2].textContent;
  const failed = (row) => scoreOf(row) !== "" && Number(scoreOf(row)) < 50;
  let wanted;
  const read = () => {
    const chosen = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const { benchmark, tokens, failed: failures } = form.elements;
    wanted = {
      model: (text) => !models.has(lineOf(text)) || chosen.has(lineOf(text)),
      benchmark: (text) => !benchmark.value || !benchmarkOf(text) || benchmarkOf(text) === benchmark.value,
      length: (text) => !tokens.value || !lengths.has(text) || text === tokens.value,
      failures: failures.checked,
      count: chosen.size,
    };
  };
  const filterTable = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    const texts = heads.map((head) => head.textContent);
    const shows = heads.map((head, column) => wanted.length(texts[column]) && wanted.benchmark(head.dataset.b || ""));
    const named = ["model", "benchmark", "length"].filter((name) => texts.includes(name));
    heads.forEach((head, column) => (head.hidden = !shows[column]));
    for (const body of table.tBodies) {
      for (const row of rowsOf(body)) {
        row.hidden = !named.every((name) => wanted[name](row.cells[texts.indexOf(name)].textContent));
        [...row.cells].forEach((cell, column) => (cell.hidden = !shows[column]));
      }
      body.hidden = rowsOf(body).every((row) => row.hidden);
    }
  };
  const filterBlock = (block) => {
    const fits = wanted.benchmark(block.dataset.b) && wanted.length(block.dataset.n || "");
    const items = all(".states li", block);
    for (const item of items) item.hidden = !wanted.model(item.querySelector("b").textContent);
    const prompts = all(".prompt", block);
    for (const prompt of prompts) {
      const rows = all(".answers tr", prompt);
      for (const row of rows) row.hidden = !wanted.model(nameOf(row)) || (wanted.failures && !failed(row));
      prompt.hidden = rows.every((row) => row.hidden);
    }
    const lost = items.some((item) => !item.hidden && item.matches(".lost"));
    const some = prompts.some((prompt) => !prompt.hidden) || lost || !(prompts.length || wanted.failures);
    block.hidden = !fits || !some;
    return fits ? all(".answers tr:not([hidden])", block).length : 0;
  };
  const apply = () => {
    read();
    all("table.sortable, table.heat").forEach(filterTable);
    for (const section of all("main > section[data-b], figure[data-b]")) {
      section.hidden = !wanted.benchmark(section.dataset.b) || !wanted.model(section.dataset.m || "");
    }
    for (const section of all("main > section:has(figure)")) {
      section.hidden = all("figure", section).every((figure) => figure.hidden);
    }
    const answers = all(".block").map(filterBlock).reduce((sum, number) => sum + number, 0);
    byId("shown").textContent = `${wanted.count} of ${boxes.length} models, ${answers} answers to read`;
    comparePairs(0);
  };
  form.addEventListener("input", (event) => {
    if (event.target.name === "part") {
      const part = event.target.value.toLowerCase();
      for (const box of boxes) box.checked = box.value.toLowerCase().includes(part);
    }
    apply();
  });
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("filters").open = matchMedia("(min-width: 641px)").matches;

  // Side by side: the prompts that both models answered, one after the other.
  const pairForm = byId("compare").querySelector("form");
  const chosen = [pairForm.elements.a, pairForm.elements.b];
  chosen.forEach((select, place) => {
    select.append(...boxes.map((box) => new Option(box.value)));
    select.selectedIndex = Math.min(place, boxes.length - 1);
  });
  let pairs = [];
  let place = 0;
  const differ = (rows) => {
    const [one, other] = rows.map((row) => scoreOf(row) || row.cells[1].textContent);
    return one !== other;
  };
  const comparePairs = (start) => {
    pairs = [];
    for (const prompt of all(".block:not([hidden]) .prompt:not([hidden])")) {
      const own = all(".answers tr", prompt);
      const rows = chosen.map((select) => own.find((row) => nameOf(row) === select.value));
      if (rows.includes(undefined) || (wanted.failures && !rows.some(failed))) continue;
      if (!pairForm.elements.differ.checked || differ(rows)) pairs.push({ prompt, rows });
    }
    showPair(start);
  };
  const showPair = (next) => {
    place = Math.max(0, Math.min(next, pairs.length - 1));
    pairForm.querySelector("output").textContent = pairs.length ? `${place + 1} of ${pairs.length}` : "none";
    const view = byId("pair");
    if (!pairs.length) {
      view.textContent = "No prompt of this page fits: choose other models, or a wider filter.";
      return;
    }
    const { prompt, rows } = pairs[place];
    const heading = document.createElement("h3");
    heading.textContent = prompt.closest(".block").querySelector("summary").textContent;
    const copy = prompt.cloneNode(true);
    copy.querySelector(".answers").remove();
    const answers = document.createElement("div");
    answers.className = "pair";
    for (const row of rows) {
      const answer = document.createElement("article");
      const [name, text, score] = ["h4", "p", "p"].map((tag, column) => {
        const element = document.createElement(tag);
        element.textContent = row.cells[column].textContent;
        return element;
      });
      text.className = "text";
      if (score.textContent) score.prepend("score ");
      answer.append(name, text, score);
      answers.append(answer);
    }
    view.replaceChildren(heading, copy, answers);
  };
  pairForm.addEventListener("input", () => comparePairs(0));
  pairForm.addEventListener("submit", (event) => event.preventDefault());
  for (const button of all("button", pairForm)) {
    button.addEventListener("click", () => showPair(place + Number(button.value)));
  }

  // The panel of a cell's samples.
  const panel = byId("panel");
  const content = byId("panel-content");
  const open = (anchor) => {
    const target = byId(anchor);
    if (!target) return false;
    // A cell without samples links to its data set's block.
    const entry = target.matches("tr") ? nameOf(target) : null;
    const copy = target.closest("details").cloneNode(true);
    const heading = document.createElement("h3");
    heading.textContent = copy.querySelector("summary").textContent;
    copy.querySelector("summary").remove();
    for (const element of all("[id]", copy)) element.removeAttribute("id");
    // What was clicked comes first: its state, then its answer before those of the others.
    for (const row of all(".answers tr", copy)) {
      if (nameOf(row) !== entry) continue;
      row.classList.add("chosen");
      row.hidden = row.closest(".prompt").hidden = false;
      row.parentElement.prepend(row);
    }
    const states = copy.querySelector(".states");
    for (const item of states.children) {
      if (item.querySelector("b").textContent === entry) heading.append(document.createElement("br"), item.textContent);
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
    const target = location.hash && byId(location.hash.slice(1));
    for (let block = target && target.closest("details"); block; block = block.parentElement.closest("details")) block.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  apply();
  reveal();
})();
