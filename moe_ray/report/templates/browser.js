"use strict";
// The answers were written by models: they enter the page as text nodes only, never as markup.
(() => {
  const PAGE_ROWS = 20;
  const root = document.getElementById("browser");
  const list = document.getElementById("answer-list");
  const status = document.getElementById("answer-status");
  const inputs = ["domain", "model", "verdict", "problem", "search"].map((name) => document.getElementById(`filter-${name}`));
  const previous = document.getElementById("page-previous");
  const next = document.getElementById("page-next");
  const reset = document.getElementById("filter-reset");
  let data = null;
  let found = [];
  let page = 0;
  let example = null;

  const element = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined && text !== null) node.textContent = text;
    return node;
  };

  const decoded = async () => {
    const binary = atob(document.getElementById("answer-data").textContent.trim());
    const bytes = new Uint8Array(binary.length);
    for (let at = 0; at < binary.length; at += 1) bytes[at] = binary.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };

  const promptText = (row) => {
    const messages = JSON.parse(data.texts[row.p]);
    return messages.map((item) => `${item.role ?? item[0]}:\n${item.content ?? item[1]}`).join("\n\n");
  };

  // Of the example: the domain that the router found most probable, its probability, and 1 if out-of-domain.
  const routeOf = (row) => data.routes?.[`${row.d}/${row.e}`] ?? null;
  const isMisrouted = (row) => { const route = routeOf(row); return route !== null && (route[0] !== row.d || route[2] === 1); };

  const PROBLEMS = { misrouted: isMisrouted, error: (row) => row.x, cut: (row) => row.c > 0, any: (row) => row.x || row.c > 0 || row.v === "unscored" };

  const matches = (row, [domain, model, verdict, problem, words]) =>
    (!domain || row.d === domain) && (!model || row.m === model) && (!verdict || row.v === verdict) &&
    (!problem || PROBLEMS[problem](row)) &&
    (!example || (row.e === example.e && row.d === example.d)) &&
    (!words || row.t.toLowerCase().includes(words) || row.e.toLowerCase().includes(words) ||
      data.texts[row.p].toLowerCase().includes(words));

  const filter = () => {
    const wanted = inputs.map((input) => input.value.trim());
    wanted[4] = wanted[4].toLowerCase();
    found = data.answers.filter((row) => matches(row, wanted));
    page = 0;
    show();
  };

  const scoreText = ([metric, value, label, detail]) =>
    [metric, value === null ? "unscored" : String(value), label, detail].filter(Boolean).join(" · ");

  const tokens = (num) => `${num.toLocaleString("en")} ${num === 1 ? "token" : "tokens"}`;

  const flags = (row) => [row.x ? "error" : "", row.c ? `prompt cut by ${tokens(row.c)}` : "",
    isMisrouted(row) ? (routeOf(row)[2] ? "out-of-domain" : `routed to ${routeOf(row)[0]}`) : ""].filter(Boolean);

  const routeText = ([domain, confidence, outOfDomain], row) =>
    `The router found ${domain} most probable (${confidence.toFixed(3)})` + (domain === row.d ? "" : `; the example is of ${row.d}`) +
    (outOfDomain ? ". It classified the query as out-of-domain, so the baseline answers it in the cascade." : ".");

  const block = (title, text, className) => {
    const section = element("section", className);
    section.append(element("h3", "", title));
    const body = element("pre", "", text);
    body.tabIndex = 0;
    section.append(body);
    return section;
  };

  const about = (row) => {
    const section = element("section", "wide");
    const timing = `${tokens(row.n)}, ended by ${row.f}, ${row.s} s in a batch of ${row.b}`;
    section.append(element("h3", "", "Scores"), ...row.g.map((score) => element("p", "", scoreText(score))));
    if (row.x) section.append(element("p", "flag", `Error: ${row.x}`));
    if (row.c) section.append(element("p", "flag", `The model read this prompt without its first ${tokens(row.c)}.`));
    const route = routeOf(row);
    if (route) section.append(element("p", isMisrouted(row) ? "flag" : "muted", routeText(route, row)));
    section.append(element("p", "muted", timing));
    const button = element("button", "", "All answers to this example");
    button.type = "button";
    button.addEventListener("click", () => {
      inputs.forEach((input) => { input.value = ""; });
      example = row;
      filter();
      status.focus();
    });
    section.append(button);
    return section;
  };

  const body = (row) => {
    const reference = data.references[`${row.d}/${row.e}`];
    const node = element("div", "answer-body");
    node.append(block("Answer", row.t || "(empty)"));
    node.append(block("Reference", reference === undefined ? "(none)" : data.texts[reference]));
    node.append(about(row), block("Prompt", promptText(row), "wide"));
    return node;
  };

  const item = (row) => {
    const entry = element("li");
    const details = element("details");
    const line = element("summary");
    const name = row.i ? `${row.e}, sample ${row.i}` : row.e;
    const who = element("span", "who", row.m);
    who.append(element("span", "muted", name), ...flags(row).map((flag) => element("span", "flag", flag)));
    line.append(element("span", `verdict ${row.v}`, row.v), who);
    line.append(element("span", "excerpt muted", row.t.trim().slice(0, 160).replace(/\s+/g, " ") || row.x || "(empty)"));
    details.append(line);
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) details.append(body(row));
    });
    entry.append(details);
    return entry;
  };

  const show = () => {
    const num_pages = Math.max(1, Math.ceil(found.length / PAGE_ROWS));
    page = Math.min(Math.max(page, 0), num_pages - 1);
    list.replaceChildren(...found.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS).map(item));
    const scope = example ? ` to ${example.e}` : "";
    status.textContent = `${found.length.toLocaleString("en")} answers${scope}, page ${page + 1} of ${num_pages}`;
    previous.disabled = page === 0;
    next.disabled = page === num_pages - 1;
  };

  const turn = (step) => { page += step; show(); status.focus(); };

  // Arrows, Home and End go along the list; Enter and the space bar open, as everywhere.
  const MOVES = { ArrowDown: (at) => at + 1, ArrowUp: (at) => at - 1, Home: () => 0, End: () => PAGE_ROWS };
  const walk = (event) => {
    const lines = [...list.querySelectorAll("summary")];
    const at = lines.indexOf(event.target);
    if (at < 0 || !(event.key in MOVES)) return;
    lines[Math.min(Math.max(MOVES[event.key](at), 0), lines.length - 1)].focus();
    event.preventDefault();
  };

  const start = async () => {
    data = await decoded();
    let timer = 0;
    const later = () => { clearTimeout(timer); timer = setTimeout(filter, 120); };
    inputs.forEach((input) => input.addEventListener("input", later));
    list.addEventListener("keydown", walk);
    previous.addEventListener("click", () => turn(-1));
    next.addEventListener("click", () => turn(1));
    reset.addEventListener("click", () => {
      inputs.forEach((input) => { input.value = ""; });
      example = null;
      filter();
    });
    filter();
    root.dataset.ready = String(Math.round(performance.now()));
  };

  // After the first paint, so that the page itself is there at once.
  requestAnimationFrame(() => setTimeout(() => start().catch((error) => {
    status.textContent = `The answers could not be read: ${error.message}`;
  }), 0));
})();
