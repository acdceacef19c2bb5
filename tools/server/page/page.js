// The page: a conversation with the server that it came from. Nothing is fetched from elsewhere, and what a model
// says is only ever put in as text.

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "num_beams", "length_penalty"];
const KEPT = [...NUMBERS, "system", "stops"];
const ALTERNATIVES = 5;

const state = {
  models: [],
  messages: [], // {role, content, reasoning, tokens, stats, calls}
  running: null, // AbortController of the answer that is coming
};

// ---------------------------------------------------------------- small things

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function kept(store, name, value) { // a browser may refuse storage; the page works without
  try {
    if (value === undefined) return store().getItem(name);
    store().setItem(name, value);
  } catch { /* not kept */ }
  return null;
}
const forTab = () => window.sessionStorage, forGood = () => window.localStorage;

function headers() {
  const key = $("key").value.trim();
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

function complain(text) {
  $("wrong").textContent = text;
  $("wrong").hidden = !text;
}

async function refusal(response) {
  let text = `The server answered ${response.status}.`;
  try {
    const { error } = await response.json();
    if (error?.message) text = error.param ? `${error.param}: ${error.message}` : error.message;
    if (error?.param && error.message.startsWith(error.param)) text = error.message;
  } catch { /* not JSON: the number must do */ }
  if (response.status === 401) text += " Put the API key into the settings.";
  if (response.status === 429) {
    const after = response.headers.get("retry-after");
    text += after ? ` Try again in ${after} s.` : "";
  }
  return text;
}

// ---------------------------------------------------------------- models and settings

const kind = () => document.querySelector("input[name=kind]:checked").value;
const chosen = () => state.models.find((model) => model.id === $("model").value);

async function loadModels() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) throw new Error(await refusal(response));
  const before = $("model").value || kept(forGood, "model");
  state.models = (await response.json()).data;
  $("model").replaceChildren(...state.models.map((model) => {
    const option = element("option", "", model.id);
    option.value = model.id;
    return option;
  }));
  if (state.models.some((model) => model.id === before)) $("model").value = before;
  modelChanged();
}

function modelChanged() {
  const can = chosen()?.capabilities ?? {};
  for (const radio of document.querySelectorAll("input[name=kind]")) {
    radio.disabled = radio.value === "chat" ? can.chat === false : can.completions === false;
  }
  const usable = document.querySelector("input[name=kind]:not(:disabled)");
  if (document.querySelector("input[name=kind]:checked").disabled && usable) usable.checked = true;
  $("send").disabled = !usable;
  kindChanged();
  if (chosen()) kept(forGood, "model", $("model").value);
}

function kindChanged() {
  const text = kind() === "text";
  $("prompt").placeholder = text ? "Write the beginning of a text" : "Write a message";
  $("system").disabled = text;
  const nothing = $("send").disabled && chosen();
  $("empty").textContent = nothing
    ? "This model answers neither chats nor texts; it is here for the other endpoints."
    : text
      ? "The model goes on with what you write."
      : "Say something. The whole conversation goes to the model each time; what it has read before is reused.";
}

function parameters() {
  const given = {};
  for (const name of NUMBERS) {
    const field = $(name);
    if (field.value === "" && !field.validity.badInput) continue;
    if (!field.checkValidity()) throw new Error(`${field.parentElement.firstChild.data.trim()}: ${field.validationMessage}`);
    given[name] = Number(field.value);
  }
  const stops = $("stops").value.split("|").filter((text) => text !== "");
  if (stops.length) given.stop = stops;
  return given;
}

function keepSettings() {
  kept(forGood, "settings", JSON.stringify(Object.fromEntries(KEPT.map((name) => [name, $(name).value]))));
  kept(forGood, "probabilities", String($("probabilities").checked));
  kept(forTab, "key", $("key").value);
}

function restoreSettings() {
  try {
    for (const [name, value] of Object.entries(JSON.parse(kept(forGood, "settings") ?? "{}"))) {
      if (KEPT.includes(name)) $(name).value = value;
    }
    state.messages = JSON.parse(kept(forTab, "messages") ?? "[]");
  } catch {
    state.messages = [];
  }
  $("probabilities").checked = kept(forGood, "probabilities") === "true";
  $("key").value = kept(forTab, "key") ?? "";
}

const THEMES = ["system", "light", "dark"];
function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
  $("theme").setAttribute("aria-label", `Theme: ${theme}`);
  kept(forGood, "theme", theme);
}

// ---------------------------------------------------------------- messages on the page

function article(message, number) {
  const made = element("article", message.role);
  made.append(element("h2", "", message.role === "user" ? "You" : (message.model ?? "Model")));
  if (message.reasoning) made.append(element("div", "reasoning", message.reasoning));
  made.append(textOf(message));
  for (const call of message.calls ?? []) made.append(element("div", "call", `${call.name}(${call.arguments})`));
  const foot = element("div", "foot");
  if (message.stats) foot.append(...message.stats.map((stat) => element("span", "", stat)));
  const button = (name, what) => {
    const b = element("button", "", name);
    b.type = "button";
    b.addEventListener("click", what);
    foot.append(b);
  };
  if (message.role === "user") button("Edit", () => edit(number));
  else if (message.content) button("Copy", () => copy(message.content));
  if (message.role === "assistant" && number === state.messages.length - 1 && !state.running) {
    button("Again", () => again());
  }
  made.append(foot);
  return made;
}

function textOf(message) {
  const text = element("div", "text");
  if (!message.tokens?.length || !$("probabilities").checked) {
    text.textContent = message.content;
    return text;
  }
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", "Tokens; the arrow keys go from one to the next");
  let shown = ""; // what the text has of them: the token that ends an answer is none of its text
  message.tokens.forEach((token, i) => {
    const span = tokenSpan(token, i);
    if (i === message.tokens.length - 1 && !message.content.startsWith(shown + token.token)) span.classList.add("end");
    shown += token.token;
    text.append(span);
  });
  text.addEventListener("click", (event) => choose(text, event.target.closest(".token"), message));
  text.addEventListener("focusin", (event) => choose(text, event.target.closest(".token"), message));
  text.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const to = step && event.target.closest(".token");
    const next = to && (step > 0 ? to.nextElementSibling : to.previousElementSibling);
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
  return text;
}

const share = (logprob) => Math.exp(logprob);
const percent = (logprob) => `${(100 * share(logprob)).toFixed(share(logprob) < 0.001 ? 4 : 1)} %`;

function tokenSpan(token, i) {
  const p = share(token.logprob);
  const made = element("span", `token ${p > 0.9 ? "" : p > 0.5 ? "p1" : p > 0.2 ? "p2" : p > 0.05 ? "p3" : "p4"}`, token.token);
  made.tabIndex = i === 0 ? 0 : -1;
  made.title = percent(token.logprob);
  made.dataset.number = i;
  return made;
}

const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";

function choose(text, span, message) {
  if (!span) return;
  for (const other of text.querySelectorAll(".chosen")) other.classList.remove("chosen");
  for (const other of text.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
  span.classList.add("chosen");
  span.tabIndex = 0;
  const token = message.tokens[Number(span.dataset.number)];
  const rows = [...(token.top_logprobs ?? [])];
  if (!rows.some((row) => row.token === token.token)) rows.push(token);
  rows.sort((a, b) => b.logprob - a.logprob);
  const table = element("table");
  table.append(element("caption", "", `Token ${Number(span.dataset.number) + 1} of ${message.tokens.length}: what could have come`));
  for (const row of rows) {
    const line = table.insertRow();
    if (row.token === token.token) line.className = "drawn";
    line.insertCell().textContent = visible(row.token);
    line.insertCell().textContent = percent(row.logprob);
    const meter = element("meter");
    meter.value = share(row.logprob);
    meter.setAttribute("aria-hidden", "true");
    line.insertCell().append(meter);
  }
  const box = element("div", "chances");
  box.setAttribute("aria-live", "polite");
  box.append(table);
  text.parentElement.querySelector(".chances")?.remove();
  text.after(box);
  box.scrollIntoView({ block: "nearest" });
}

function draw() {
  const log = $("log");
  log.replaceChildren($("empty"), ...state.messages.map(article));
  $("empty").hidden = state.messages.length > 0;
  log.scrollTop = log.scrollHeight;
  kept(forTab, "messages", JSON.stringify(state.messages));
}

function edit(number) {
  if (state.running) return;
  $("prompt").value = state.messages[number].content;
  state.messages.length = number;
  draw();
  fit();
  $("prompt").focus();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    $("said").textContent = "Copied.";
  } catch {
    complain("The browser does not let this page copy; select the text instead.");
  }
}

function again() {
  if (state.running || state.messages.at(-1)?.role !== "assistant") return;
  state.messages.pop();
  answer();
}

// ---------------------------------------------------------------- an answer

function body() {
  const given = parameters(), whole = given.num_beams > 1; // what a search found comes at its end
  const asked = { model: $("model").value, ...(whole ? {} : { stream: true, stream_options: { include_usage: true } }), ...given };
  const shown = $("probabilities").checked && !whole;
  if (kind() === "text") {
    if (shown) asked.logprobs = ALTERNATIVES;
    const last = state.messages.filter((message) => message.role === "user").at(-1);
    return ["v1/completions", { ...asked, prompt: last.content }];
  }
  if (shown) Object.assign(asked, { logprobs: true, top_logprobs: ALTERNATIVES });
  const said = state.messages.map(({ role, content }) => ({ role, content }));
  const system = $("system").value.trim();
  return ["v1/chat/completions", { ...asked, messages: system ? [{ role: "system", content: system }, ...said] : said }];
}

async function* events(response) { // server-sent events: what stands after "data:", each as JSON; or a whole answer
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
    yield await response.json();
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value.replaceAll("\r\n", "\n");
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const data = text.slice(0, end).split("\n").filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trimStart()).join("\n");
      text = text.slice(end + 2);
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

function tokensOf(choice) { // both forms that the API has
  const given = choice.logprobs;
  if (!given) return [];
  if (given.content) return given.content;
  return (given.tokens ?? []).map((token, i) => ({
    token,
    logprob: given.token_logprobs[i],
    top_logprobs: Object.entries(given.top_logprobs?.[i] ?? {}).map(([other, logprob]) => ({ token: other, logprob })),
  }));
}

function take(message, event) {
  if (event.error) throw new Error(event.error.message);
  if (event.usage) message.usage = event.usage;
  const [choice] = event.choices ?? [];
  if (!choice) return;
  const delta = choice.delta ?? choice.message ?? { content: choice.text };
  message.content += delta.content ?? "";
  if (delta.reasoning_content) message.reasoning = (message.reasoning ?? "") + delta.reasoning_content;
  for (const [i, call] of (delta.tool_calls ?? []).entries()) {
    const held = ((message.calls ??= [])[call.index ?? i] ??= { name: "", arguments: "" });
    held.name += call.function?.name ?? "";
    held.arguments += call.function?.arguments ?? "";
  }
  message.tokens.push(...tokensOf(choice));
  if (choice.finish_reason) message.finish = choice.finish_reason;
  if (choice.score !== undefined) message.score = choice.score;
}

function statistics(message, asked, first, last) {
  const stats = [], usage = message.usage, n = usage?.completion_tokens;
  if (n > 1 && last > first) stats.push(`${((n - 1) / ((last - first) / 1000)).toFixed(1)} tokens/s`);
  if (first) stats.push(`first after ${Math.round(first - asked)} ms`);
  if (usage) {
    stats.push(`${n} tokens`);
    const reused = usage.prompt_tokens_details?.cached_tokens ?? 0;
    stats.push(`prompt ${usage.prompt_tokens}, of these ${reused} reused`);
  }
  if (message.score !== undefined) stats.push(`score ${message.score.toFixed(3)}`);
  if (message.finish === "length") stats.push("cut at the most tokens");
  if (message.stopped) stats.push("stopped");
  return stats;
}

async function answer() {
  complain("");
  let where, asked;
  try {
    [where, asked] = body();
  } catch (error) {
    complain(error.message);
    return false;
  }
  state.running = new AbortController();
  $("stop").hidden = false;
  $("send").hidden = true;
  const message = { role: "assistant", content: "", model: asked.model, tokens: [] };
  state.messages.push(message);
  draw();
  const shown = $("log").lastElementChild, text = shown.querySelector(".text");
  shown.classList.add("running");
  const began = performance.now();
  let first = 0, last = 0, failed = false;
  try {
    const response = await fetch(where, {
      method: "POST", headers: headers(), body: JSON.stringify(asked), signal: state.running.signal,
    });
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response)) {
      const before = message.content.length;
      take(message, event);
      if (message.content.length > before) {
        last = performance.now();
        first ||= last;
        const log = $("log"), atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
        text.append(message.content.slice(before));
        if (atEnd) log.scrollTop = log.scrollHeight;
      }
    }
  } catch (error) {
    if (error.name === "AbortError") message.stopped = true;
    else {
      failed = true;
      complain(error instanceof TypeError ? "The server cannot be reached." : error.message);
    }
  }
  message.stats = statistics(message, began, first, last);
  state.running = null;
  $("stop").hidden = true;
  $("send").hidden = false;
  if (failed && !message.content) state.messages.pop();
  draw();
  $("said").textContent = failed ? "" : message.content; // for screen readers: once, when it is whole
  return !failed;
}

async function send(event) {
  event?.preventDefault();
  const text = $("prompt").value;
  if (state.running || !text.trim() || $("send").disabled) return;
  state.messages.push({ role: "user", content: text });
  $("prompt").value = "";
  fit();
  if (!(await answer()) && state.messages.at(-1)?.role === "user") { // nothing came: the message is theirs again
    const message = state.messages.pop();
    draw();
    $("prompt").value ||= message.content;
    fit();
  }
  $("prompt").focus();
}

function fit() {
  const box = $("prompt");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

function fresh() {
  state.running?.abort();
  state.messages = [];
  complain("");
  draw();
  $("prompt").focus();
}

// ---------------------------------------------------------------- keys and buttons

$("form").addEventListener("submit", send);
$("prompt").addEventListener("input", fit);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
});
$("stop").addEventListener("click", () => state.running?.abort());
$("fresh").addEventListener("click", fresh);
$("theme").addEventListener("click", () => {
  setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % THEMES.length]);
});
function openSettings(open) {
  $("settings").classList.toggle("open", open);
  $("open").setAttribute("aria-expanded", String(open));
}
$("open").addEventListener("click", () => openSettings(!$("settings").classList.contains("open")));
$("log").addEventListener("click", () => openSettings(false));
$("model").addEventListener("change", modelChanged);
for (const radio of document.querySelectorAll("input[name=kind]")) radio.addEventListener("change", kindChanged);
$("settings").addEventListener("change", keepSettings);
$("options").addEventListener("submit", (event) => event.preventDefault());
$("probabilities").addEventListener("change", () => state.running || draw());
$("key").addEventListener("change", () => loadModels().then(() => complain(""), (error) => complain(error.message)));
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "Escape") {
    if (state.running) state.running.abort();
    else openSettings(false);
  } else if (event.key === "/" && !typing) {
    event.preventDefault();
    $("prompt").focus();
  } else if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    fresh();
  }
});

setTheme(THEMES.includes(kept(forGood, "theme")) ? kept(forGood, "theme") : "system");
restoreSettings();
draw();
loadModels().catch((error) => complain(error instanceof TypeError ? "The server cannot be reached." : error.message));
