"use strict";
(() => {
  // Notes are open on paper, where they cannot be clicked.
  const notes = document.querySelector("details.notes");
  let open = false;
  addEventListener("beforeprint", () => {
    if (!notes) return;
    open = notes.open;
    notes.open = true;
  });
  addEventListener("afterprint", () => { if (notes) notes.open = open; });

  // A table that is wider than the screen says that it goes on.
  const mark = (box) => {
    const wider = box.scrollWidth > box.clientWidth + 1;
    const hint = box.previousElementSibling?.classList.contains("hint") ? box.previousElementSibling : null;
    if (wider && !hint) {
      const line = document.createElement("p");
      line.className = "hint";
      line.textContent = "Scroll sideways for more columns →";
      box.before(line);
    } else if (!wider && hint) {
      hint.remove();
    }
  };
  const observer = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target)));
  document.querySelectorAll(".scroll").forEach((box) => observer.observe(box));
})();
