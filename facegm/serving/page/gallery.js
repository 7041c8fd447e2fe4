// People of the gallery: listed, enrolled, searched for, removed.

import { percent } from "/page/compare.js";
import { create, PhotoSlot } from "/page/photo-slot.js";
import { ask } from "/page/server.js";

const element = (id) => document.getElementById(id);

export async function startGallery(hasGallery) {
  element("no-gallery").hidden = hasGallery;
  element("with-gallery").hidden = !hasGallery;
  if (!hasGallery) return;
  const toEnroll = new PhotoSlot(element("photo-enroll"), { showsFaces: false });
  const toSearch = new PhotoSlot(element("photo-search"), { showsFaces: false, onChange: forgetMatches });
  onSubmit("enroll", "enrolled", toEnroll, enroll);
  onSubmit("search", "searched", toSearch, search);
  await listPeople();
}

// Has a way called with the slot and its photo; an answer that comes when another photo was chosen says nothing any more.
function onSubmit(form, status, slot, way) {
  element(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = element(form).querySelector(":scope > button");
    const photo = slot.file;
    if (photo === null) {
      element(status).textContent = "Choose a photo first.";
      return;
    }
    button.disabled = true;
    element(status).textContent = "A moment";
    try {
      const told = await way(slot, photo);
      if (told !== null) element(status).textContent = told;
    } catch (error) {
      element(status).textContent = error.message;
    }
    button.disabled = false;
  });
}

async function enroll(slot, photo) {
  const name = element("name").value;
  const answer = await ask(`/v1/people/${encodeURIComponent(name)}`, { method: "POST", fields: { photo } });
  if (slot.file === photo) slot.clear();
  if (element("name").value === name) element("name").value = "";
  listPeople();
  return `${answer.name} is enrolled, with ${counted(answer.samples)}.`;
}

async function search(slot, photo) {
  forgetMatches();
  const answer = await ask("/v1/search", { method: "POST", fields: { photo, k: 5 } });
  if (slot.file !== photo) return null;
  slot.show(answer, answer.chosen);
  for (const { name, distance, probability } of answer.matches) {
    const line = create("li", {});
    line.append(create("span", { className: "name", textContent: name }));
    const told = probability === null ? "" : `, ${percent(probability)} at even odds`;
    line.append(create("span", { textContent: `distance ${distance.toFixed(3)}${told}` }));
    element("matches").append(line);
  }
  if (!answer.matches.length) return "Nobody is enrolled yet.";
  if (answer.threshold === null) return "The nearest people:";
  const [{ name, same }] = answer.matches;
  const known = same ? `${name}, nearer` : "Nobody of the gallery: none is nearer";
  return `${known} than the threshold of ${answer.threshold.toFixed(3)}. The nearest people:`;
}

function forgetMatches() {
  element("matches").replaceChildren();
  element("searched").textContent = "";
}

async function listPeople() {
  let people;
  try {
    ({ people } = await ask("/v1/people"));
  } catch (error) {
    element("listed").textContent = `The people cannot be listed: ${error.message}`;
    return;
  }
  element("people").replaceChildren(...people.map(({ name, samples }) => {
    const line = create("li", {});
    const button = create("button", { type: "button", className: "danger", textContent: "Remove" });
    button.setAttribute("aria-label", `Remove ${name}`);
    button.addEventListener("click", () => askToRemove(name, samples));
    line.append(create("span", { className: "name", textContent: name }), counted(samples), button);
    return line;
  }));
  if (!people.length) element("people").append(create("li", { textContent: "Nobody yet." }));
}

function askToRemove(name, samples) {
  const dialog = element("removal");
  element("removal-question").textContent = `Remove ${name}, with ${counted(samples)}, from the gallery?`;
  dialog.returnValue = "keep";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "remove") return;
    try {
      await ask(`/v1/people/${encodeURIComponent(name)}`, { method: "DELETE" });
      element("listed").textContent = `${name} is removed.`;
      await listPeople();
    } catch (error) {
      element("listed").textContent = error.message;
    }
    (element("people").querySelector("button") ?? element("people-title")).focus();
  };
  dialog.showModal();
}

function counted(samples) {
  return samples === 1 ? "1 photo" : `${samples} photos`;
}
