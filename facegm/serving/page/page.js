// The page: asks for the model, and for a key where one is needed; shows one view at a time.

import { startComparing } from "/page/compare.js";
import { startGallery } from "/page/gallery.js";
import { ask, keepKey, tell } from "/page/server.js";

const VIEWS = ["compare", "gallery"];
const element = (id) => document.getElementById(id);

async function start() {
  tell("");
  try {
    const model = await ask("/v1/model");
    element("key-form").hidden = true;
    element("model").textContent = model.description;
    startComparing(model.calibration);
    await startGallery(model.gallery);
  } catch (error) {
    element("key-form").hidden = error.code !== "unauthorized";
    tell(error.message);
  }
}

function show() {
  const chosen = VIEWS.find((view) => location.hash === `#${view}`) ?? VIEWS[0];
  for (const view of VIEWS) {
    element(view).hidden = view !== chosen;
    if (view === chosen) element(`to-${view}`).setAttribute("aria-current", "page");
    else element(`to-${view}`).removeAttribute("aria-current");
  }
}

element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    keepKey(element("key").value.trim());
    start();
  } catch (error) {
    tell(error.message);
  }
});
addEventListener("hashchange", show);
for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault()); // a miss opens nothing
show();
start();
