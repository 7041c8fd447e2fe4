// The page: asks for the model, and for a key where one is needed; shows one view at a time.

import { startComparing } from "/page/compare.js";
import { startGallery } from "/page/gallery.js";
import { ask, keepKey } from "/page/server.js";

const VIEWS = ["compare", "gallery"];
const element = (id) => document.getElementById(id);

async function start() {
  element("trouble").hidden = element("key-form").hidden = true;
  let model;
  try {
    model = await ask("/v1/model");
  } catch (error) {
    element("key-form").hidden = error.code !== "unauthorized";
    if (element("key-form").hidden) tell(error.message);
    else element("model").textContent = "This server asks for its API key.";
    return;
  }
  element("model").textContent = model.description;
  startComparing(model.calibration);
  await startGallery(model.gallery, model.calibration);
  show();
}

function tell(message) {
  element("trouble").textContent = message;
  element("trouble").hidden = false;
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
  keepKey(element("key").value);
  start();
});
addEventListener("hashchange", show);
for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault()); // a miss opens nothing
show();
start();
