// What both pages share: copying, the help dialog, and following changes.

export function wire(root = document) {
  root.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      const scope = copy.closest("article, section, main");
      const source = scope.querySelector(`[data-raw="${copy.dataset.copy}"]`)
        ?? document.querySelector(`[data-raw="${copy.dataset.copy}"]`);
      await copyText(source.textContent);
      say(copy, "Copied");
      return;
    }
    const toggle = event.target.closest("[data-toggle-json]");
    if (toggle) {
      const body = toggle.closest(".body");
      const raw = body.querySelector(".raw");
      raw.hidden = !raw.hidden;
      body.querySelector(".rendered").hidden = !raw.hidden;
      toggle.setAttribute("aria-pressed", String(!raw.hidden));
      return;
    }
    if (event.target.closest("[data-help]")) help();
  });
}

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.body.appendChild(document.createElement("textarea"));
  area.value = text;
  area.select();
  document.execCommand("copy");
  area.remove();
}

function say(button, text) {
  const before = button.textContent;
  button.textContent = text;
  setTimeout(() => { button.textContent = before; }, 1200);
}

export function help() {
  document.getElementById("help").showModal();
}

// True while the person is typing, when keys are text and not commands.
export function isTyping(event) {
  return event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog");
}

// The part of a page that the server renders for `address`, or null when it cannot be had now.
export async function fetchPart(address) {
  try {
    const answer = await fetch(address, { headers: { Accept: "text/html" } });
    return answer.ok ? await answer.text() : null;
  } catch {
    return null;
  }
}

// Puts server-rendered HTML in place of what `holder` has. The server has escaped every recorded text in it.
export function replaceContent(holder, html) {
  const parsed = new DOMParser().parseFromString(html, "text/html");
  holder.replaceChildren(...parsed.body.childNodes);
}

// Calls `changed` after changes, at most every `pause` ms, and at least every `idle` ms while the page is visible.
export function follow(address, changed, { pause = 400, idle = 5000 } = {}) {
  const light = document.getElementById("live");
  let waiting = null;
  const soon = () => {
    if (waiting === null) waiting = setTimeout(() => { waiting = null; changed(); }, pause);
  };
  const source = new EventSource(address);
  source.addEventListener("open", () => { light.hidden = false; });
  source.addEventListener("error", () => { light.hidden = true; });
  source.addEventListener("revision", soon);
  setInterval(() => { if (!document.hidden) soon(); }, idle);
}
