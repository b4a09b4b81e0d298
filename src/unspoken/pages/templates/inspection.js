"use strict";
(() => {
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const tools = document.querySelector(".tools"), search = tools.querySelector("input"), output = tools.querySelector("output");
  const problems = all("article"), nothing = document.querySelector(".nothing"), shows = all("[data-show]", tools);
  const fold = tools.querySelector("[data-fold]");
  const plain = (text) => text.normalize("NFKC").toLowerCase();
  const texts = new Map();
  let kind = "all", at = -1;

  // which problems are shown
  const text = (one) => texts.get(one) ?? (texts.set(one, plain(one.textContent)), texts.get(one));
  const is = (one, wanted) => wanted === "all" || one.dataset.is.split(" ").includes(wanted);
  const shown = () => problems.filter((one) => !one.hidden);
  const filter = () => {
    const words = plain(search.value).split(/\s+/).filter(Boolean);
    for (const one of problems) one.hidden = !is(one, kind) || !words.every((word) => text(one).includes(word));
    for (const one of shows) one.setAttribute("aria-pressed", one.dataset.show === kind);
    const left = shown().length;
    output.textContent = left === problems.length ? "" : `${left} of ${problems.length}`;
    nothing.hidden = left > 0;
  };
  const show = (wanted) => { kind = wanted; filter(); };
  const everything = () => { search.value = ""; show("all"); };
  for (const one of shows) one.addEventListener("click", () => show(one.dataset.show));
  search.addEventListener("input", filter);
  tools.addEventListener("submit", (event) => event.preventDefault());
  fold.addEventListener("click", () => {
    const open = fold.getAttribute("aria-pressed") !== "true";
    fold.setAttribute("aria-pressed", open);
    fold.textContent = open ? "fold all" : "unfold all";
    for (const one of all(".side > details")) one.open = open;
  });

  // from problem to problem
  const go = (one) => {
    at = problems.indexOf(one);
    one.focus({ preventScroll: true });
    one.scrollIntoView({ block: "start" });
  };
  const step = (by) => {
    const list = problems.map((one, place) => [one, place]).filter(([one]) => !one.hidden);
    const next = by > 0 ? list.find(([, place]) => place > at) : list.reverse().find(([, place]) => place < at);
    if (next) go(next[0]);
  };
  const toggle = () => {
    const sides = problems[at] && !problems[at].hidden ? all(".side > details", problems[at]) : [];
    const open = !sides.every((one) => one.open);
    for (const one of sides) one.open = open;
  };
  document.addEventListener("focusin", (event) => {
    const one = event.target.closest?.("article");
    if (one) at = problems.indexOf(one);
  });
  const follow = () => {
    const one = problems.find((problem) => "#" + problem.id === location.hash);
    if (!one) return;
    if (one.hidden) everything();
    go(one);
  };
  addEventListener("hashchange", follow);

  // keys
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") { everything(); search.blur(); return; }
    if (event.target.closest?.("input, textarea, select")) return;
    const names = Object.fromEntries(shows.map((one) => [one.textContent[0], () => show(one.dataset.show)]));
    const keys = { j: () => step(1), k: () => step(-1), o: toggle, "/": () => search.focus(), ...names };
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });

  // figures as files
  const style = document.getElementById("chart-style").content.textContent;
  const alone = (svg) => {
    const copy = svg.cloneNode(true), box = svg.viewBox.baseVal;
    copy.setAttribute("xmlns", svg.namespaceURI);
    copy.setAttribute("width", box.width);
    copy.setAttribute("height", box.height);
    const rules = document.createElementNS(svg.namespaceURI, "style"), paper = document.createElementNS(svg.namespaceURI, "rect");
    rules.textContent = style;
    for (const [name, value] of [["class", "paper"], ["width", "100%"], ["height", "100%"]]) paper.setAttribute(name, value);
    copy.prepend(rules, paper);
    return new XMLSerializer().serializeToString(copy);
  };
  const save = (url, name) => Object.assign(document.createElement("a"), { href: url, download: name }).click();
  const asData = (markup) => "data:image/svg+xml;charset=utf-8," + encodeURIComponent(markup);
  const asPng = (svg, name) => {
    const picture = new Image(), box = svg.viewBox.baseVal, canvas = document.createElement("canvas");
    picture.onload = () => {
      [canvas.width, canvas.height] = [4 * box.width, 4 * box.height];
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
      save(canvas.toDataURL("image/png"), name);
    };
    picture.src = asData(alone(svg));
  };
  const savers = { svg: (svg, name) => save(asData(alone(svg)), name), png: asPng };
  for (const figure of all("main figure")) {
    const svg = figure.querySelector("svg:not(.small)");
    if (!svg) continue;
    const row = Object.assign(document.createElement("p"), { className: "save" });
    const name = svg.getAttribute("aria-label").replace(/\W+/g, "-").toLowerCase();
    for (const [suffix, saver] of Object.entries(savers)) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: suffix.toUpperCase() });
      button.setAttribute("aria-label", `Save as ${suffix.toUpperCase()}: ${svg.getAttribute("aria-label")}`);
      button.addEventListener("click", () => saver(svg, `${name}.${suffix}`));
      row.append(button);
    }
    figure.append(row);
  }

  tools.hidden = false;
  follow();
})();
