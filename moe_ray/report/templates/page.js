"use strict";
// Notes stand open on paper, where nobody can open them.
(() => {
  const notes = document.querySelector("details.notes");
  let open = false;
  addEventListener("beforeprint", () => {
    if (!notes) return;
    open = notes.open;
    notes.open = true;
  });
  addEventListener("afterprint", () => { if (notes) notes.open = open; });
})();
