// The run page: the tree (fold, choose, keyboard), the inspector of the chosen step, and both kept up to date.

import { fetchPart, follow, help, isTyping, replaceContent, wire } from "./common.js";

const page = document.getElementById("run");
const treePart = document.getElementById("tree-part");
const inspector = document.getElementById("inspector");
const runAddress = `/runs/${page.dataset.run}`;
const folded = new Set();
let chosen = page.dataset.step;
let shown = "";

wire();

const rows = () => [...treePart.querySelectorAll(".row")];
const visibleRows = () => rows().filter((row) => !row.hidden);
const depth = (row) => Number(row.dataset.depth);

function applyFolds() {
  let hiddenBelow = Infinity;
  for (const row of rows()) {
    if (depth(row) <= hiddenBelow) hiddenBelow = Infinity;
    row.hidden = depth(row) > hiddenBelow;
    const isFolded = folded.has(row.dataset.step);
    row.querySelector(".fold")?.setAttribute("aria-expanded", String(!isFolded));
    if (isFolded && !row.hidden) hiddenBelow = depth(row);
  }
}

function setFolded(row, fold) {
  if (!row.querySelector(".fold")) return;
  if (fold) folded.add(row.dataset.step); else folded.delete(row.dataset.step);
  applyFolds();
}

function markChosen({ focus = false } = {}) {
  for (const row of rows()) {
    const isChosen = row.dataset.step === chosen;
    row.classList.toggle("chosen", isChosen);
    row.setAttribute("aria-selected", String(isChosen));
    row.tabIndex = isChosen ? 0 : -1;
    if (isChosen && focus) row.focus();
  }
}

function address(part) {
  const parameters = new URLSearchParams();
  if (chosen) parameters.set("step", chosen);
  if (part) parameters.set("part", part);
  const text = parameters.toString();
  return text ? `${runAddress}?${text}` : runAddress;
}

async function inspect() {
  const wanted = chosen;
  const html = await fetchPart(address("inspector"));
  if (html === null || wanted !== chosen || html === shown) return; // what a reader has unfolded stays as it is
  shown = html;
  replaceContent(inspector, html);
}

async function choose(row, options) {
  if (!row) return;
  chosen = row.dataset.step;
  markChosen(options);
  history.replaceState(null, "", address());
  inspector.scrollTop = 0;
  await inspect();
}

async function renew() {
  const html = await fetchPart(address("tree"));
  if (html === null) return;
  const hadFocus = treePart.contains(document.activeElement);
  replaceContent(treePart, html);
  applyFolds();
  markChosen({ focus: hadFocus });
  await inspect();
}

treePart.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  const row = event.target.closest(".row");
  if (!row) return;
  event.preventDefault();
  if (event.target.closest(".fold")) setFolded(row, !folded.has(row.dataset.step));
  else choose(row, { focus: true });
});

function moveBy(by) {
  const visible = visibleRows();
  const at = visible.findIndex((row) => row.dataset.step === chosen);
  choose(visible[Math.max(0, Math.min(visible.length - 1, at + by))], { focus: true });
}

function nextFailed() {
  const all = rows();
  const at = all.findIndex((row) => row.dataset.step === chosen);
  const after = [...all.slice(at + 1), ...all.slice(0, at + 1)];
  choose(after.find((row) => row.classList.contains("failed")), { focus: true });
}

document.addEventListener("keydown", (event) => {
  if (isTyping(event)) return;
  const row = treePart.querySelector(".row.chosen");
  const keys = {
    ArrowDown: () => moveBy(1),
    ArrowUp: () => moveBy(-1),
    ArrowLeft: () => setFolded(row, true),
    ArrowRight: () => setFolded(row, false),
    e: nextFailed,
    b: () => { location.href = "/runs"; },
    "?": help,
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

const isOpen = () => treePart.querySelector(".run-head").dataset.status === "running";
applyFolds();
markChosen();
follow(`/api/v1/live?run_id=${page.dataset.run}&after=${page.dataset.revision}`, renew, { pause: 300, idle: isOpen() ? 1500 : 15000 });
