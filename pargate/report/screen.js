"use strict";
const cards = [...document.querySelectorAll(".suspect")];
const groups = [...document.querySelectorAll(".words")];
const marks = {};
let unsaved = false;

function mark(card, word) {
  if (word) marks[card.dataset.key] = word;
  else delete marks[card.dataset.key];
  card.dataset.mark = word;
  unsaved = true;
  const told = Object.values(marks);
  const poisoned = told.filter((one) => one === "poisoned").length;
  document.getElementById("told").textContent =
    `${poisoned} poisoned, ${told.length - poisoned} fine, ${cards.length - told.length} not marked`;
}

function go(from, by) {
  const next = cards[from + by];
  if (next) next.focus();
}

function save() {
  const words = groups.filter((one) => one.ariaPressed === "true").map((one) => one.dataset.words);
  const text = JSON.stringify(
    { schema: "pargate/marks/1", pairs_sha256: document.body.dataset.pairs, marks, words }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" }));
  link.download = "marks.json";
  link.click();
  URL.revokeObjectURL(link.href);
  unsaved = false;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = cards.indexOf(document.activeElement);
  const words = { p: "poisoned", f: "fine", u: "" };
  if (event.key === "s") save();
  else if (event.key === "ArrowRight" || event.key === "j") go(at, 1);
  else if (event.key === "ArrowLeft" || event.key === "k") go(at, -1);
  else if (event.key in words && at >= 0) {
    mark(cards[at], words[event.key]);
    go(at, 1);
  } else return;
  event.preventDefault();
});
for (const card of cards) {
  for (const button of card.querySelectorAll("button")) {
    button.addEventListener("click", () => mark(card, button.value));
  }
}
for (const group of groups) {
  group.addEventListener("click", () => {
    group.ariaPressed = group.ariaPressed === "true" ? "false" : "true";
    unsaved = true;
  });
}
document.getElementById("save").addEventListener("click", save);
window.addEventListener("beforeunload", (event) => {
  if (unsaved) event.preventDefault();
});
