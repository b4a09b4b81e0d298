"use strict";
(() => {
  const find = (what, within = document) => within.querySelector(what);
  const make = (name, text, more = {}) => Object.assign(document.createElement(name), { textContent: text }, more);
  const form = find(".asking"), question = find("#question"), stop = find("#stop"), sides = find(".sides");
  const model = find("#model"), beside = find("#beside"), example = find("#example"), key = find("#key");
  let under = new AbortController();

  // every request: JSON, the key if there is one, and errors in the server's own words
  const ask = async (path, body, signal) => {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    if (key.value) headers.Authorization = `Bearer ${key.value}`;
    const answer = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, signal, body: body && JSON.stringify(body) });
    if (answer.ok) return answer;
    if (answer.status === 401) find("#locked").hidden = false;
    const said = await answer.json().catch(() => null);
    throw new Error(said?.error?.message ?? `the server answered ${answer.status}`);
  };

  // the events of a stream, one by one
  async function* events(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.replace(/^data: /, "");
        if (data !== "[DONE]") yield JSON.parse(data);
      }
    }
  }

  const counted = (n, what) => `${n} ${what}${n === 1 ? "" : what.endsWith("s") ? "es" : "s"}`;

  // one model's answer, as it comes
  const watch = async (name, text, signal) => {
    const side = find("#answer").content.firstElementChild.cloneNode(true);
    const thoughts = find(".thoughts", side), answer = find(".answer", side), cost = find(".cost", side);
    const option = [...model.options].find((one) => one.value === name);
    find(".run", side).textContent = option.textContent;
    sides.append(side);
    const began = performance.now();
    let first = null, open = null, usage = null;
    try {
      const body = { model: name, messages: [{ role: "user", content: text }], temperature: 0, stream: true };
      const stream = await ask("v1/chat/completions", { ...body, stream_options: { include_usage: true } }, signal);
      for await (const event of events(stream)) {
        if (event.error) throw new Error(event.error.message);
        usage = event.usage ?? usage;
        const delta = event.choices[0]?.delta;
        if (!delta) continue;
        if (delta.reasoning || delta.content) first ??= performance.now() - began;
        for (const [i, line] of (delta.reasoning ?? "").split("\n").entries()) {
          if (!line && !i) continue;
          if (!i && open && !delta.reasoning.startsWith("\n")) open.textContent += line;
          else { open = make("code", line); const item = make("li", ""); item.className = "said"; item.append(open); thoughts.append(item); }
        }
        answer.textContent += delta.content ?? "";
      }
      const took = Math.round(performance.now() - began), latents = usage.completion_tokens_details.reasoning_tokens;
      const parts = [counted(usage.completion_tokens - latents, "token"), counted(usage.forward_passes, "pass"), `${took} ms`];
      if (latents) parts.unshift(counted(latents, "latent"));
      if (first !== null) parts.push(`the first word after ${Math.round(first)} ms`);
      cost.textContent = parts.join(" · ");
      if (latents) await show(side, name, text, answer.textContent, signal);
    } catch (error) {
      cost.textContent = error.name === "AbortError" ? "stopped" : error.message;
      side.classList.toggle("alarm", error.name !== "AbortError");
    } finally {
      answer.removeAttribute("aria-busy");
    }
    if (option.dataset.inspected === "True") {
      find(".inspected", side).hidden = false;
      find(".inspected a", side).href = `inspect/${encodeURIComponent(name)}`;
    }
  };

  // its latents: what they are near to, how alike they are, and buttons that change one
  const show = async (side, name, text, before, signal) => {
    const told = await (await ask("v1/thoughts", { model: name, question: text }, signal)).json();
    const box = find(".latents", side), each = find(".each", side), alike = find(".alike", side);
    box.hidden = false;
    told.latents.forEach((latent, number) => {
      const row = make("div", "", { className: "latent" }), words = make("span", "", { className: "words" });
      row.append(make("b", `latent ${number + 1} `), words);
      for (const word of latent.words)
        words.append(make("code", JSON.stringify(word.text).slice(1, -1)), make("small", `${Math.round(100 * word.probability)}%`));
      const choice = make("span", "", { className: "choice" }), becomes = make("p", "", { className: "note becomes" });
      becomes.setAttribute("role", "status");
      for (const [how, label] of [["zero", "zero"], ["noise", "noise"], ["swap", "swap"], ["drop", "remove"]]) {
        const button = make("button", label, { type: "button" });
        button.setAttribute("aria-label", `${label} latent ${number + 1}`);
        button.addEventListener("click", async () => {
          becomes.textContent = "…";
          const touch = { latent: number, how, ...(how === "swap" ? { other: find(".other", side).value } : {}) };
          try {
            const changed = await (await ask("v1/thoughts", { model: name, question: text, touch })).json();
            const same = changed.text === before;
            becomes.textContent = same ? `${label}: the same answer` : `${label}: ${changed.text}`;
            becomes.className = `note becomes ${same ? "same" : "other"}`;
          } catch (error) { becomes.textContent = error.message; }
        });
        choice.append(button);
      }
      row.append(choice, becomes);
      each.append(row);
    });
    for (const latent of told.latents) {
      const row = make("tr", "");
      for (const value of latent.similarity) {
        const cell = make("td", value.toFixed(2), { className: "num" });
        cell.style.background = `color-mix(in srgb, var(--c0) ${Math.round(60 * Math.max(0, value))}%, transparent)`;
        row.append(cell);
      }
      alike.append(row);
    }
  };

  const begin = async () => {
    const text = question.value.trim();
    if (!text) return question.focus();
    under.abort();
    under = new AbortController();
    sides.replaceChildren();
    stop.hidden = false;
    const names = [...new Set([model.value, beside.value].filter(Boolean))];
    const { signal } = under;
    await Promise.all(names.map((name) => watch(name, text, signal)));
    if (!signal.aborted) stop.hidden = true;
  };
  const end = () => { under.abort(); stop.hidden = true; };
  form.addEventListener("submit", (event) => { event.preventDefault(); begin(); });
  stop.addEventListener("click", end);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); begin(); }
    if (event.key === "Escape") end();
  });

  // problems of the run's task
  const problems = async () => {
    example.length = 1;
    try {
      const told = await (await ask(`v1/problems/${encodeURIComponent(model.value)}`)).json();
      for (const one of told.problems) example.append(make("option", one.length > 70 ? `${one.slice(0, 69)}…` : one, { value: one }));
    } catch { /* none to offer */ }
    example.disabled = example.length === 1;
  };
  example.addEventListener("change", () => { if (example.value) question.value = example.value; });
  model.addEventListener("change", problems);
  key.addEventListener("change", problems);
  problems();
})();
