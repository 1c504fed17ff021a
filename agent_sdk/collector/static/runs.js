// The runs page: renews its list when something changes, and moves through it by keyboard.

import { fetchPart, follow, help, isTyping, replaceContent, wire } from "./common.js";

const holder = document.getElementById("runs");
let current = null;

wire();

const rows = () => [...holder.querySelectorAll("tr[data-run]")];

function choose(row) {
  rows().forEach((other) => other.classList.toggle("chosen", other === row));
  current = row?.dataset.run ?? null;
  row?.scrollIntoView({ block: "nearest" });
}

function move(by) {
  const all = rows();
  const at = all.findIndex((row) => row.dataset.run === current);
  choose(all[Math.max(0, Math.min(all.length - 1, at + by))]);
}

async function renew() {
  const address = new URL(location.href);
  address.searchParams.set("part", "rows");
  const html = await fetchPart(address);
  if (html === null) return;
  replaceContent(holder, html);
  choose(rows().find((row) => row.dataset.run === current));
}

holder.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-run]");
  if (row && !event.target.closest("a")) location.href = row.querySelector("td.agent a").href;
});

document.querySelectorAll(".filters select").forEach((select) => {
  select.addEventListener("change", () => select.form.requestSubmit());
});

document.addEventListener("keydown", (event) => {
  if (isTyping(event)) return;
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "Enter" && current) location.href = `/runs/${current}`;
  else if (event.key === "/") { event.preventDefault(); document.querySelector("input[type=search]").focus(); }
  else if (event.key === "?") help();
});

if (holder.dataset.live === "yes") follow(`/api/v1/live?after=${holder.dataset.revision}`, renew);
