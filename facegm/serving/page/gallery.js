// People of the gallery: listed, enrolled, searched for, removed.

import { percent, usualThreshold } from "/page/compare.js";
import { create, PhotoSlot } from "/page/photo-slot.js";
import { ask } from "/page/server.js";

const element = (id) => document.getElementById(id);

export async function startGallery(hasGallery, calibration) {
  element("no-gallery").hidden = hasGallery;
  element("with-gallery").hidden = !hasGallery;
  if (!hasGallery) return;
  const toEnroll = new PhotoSlot(element("photo-enroll"), { showsFaces: false });
  const toSearch = new PhotoSlot(element("photo-search"), { showsFaces: false });
  onSubmit("enroll", "enrolled", toEnroll, () => enroll(toEnroll));
  onSubmit("search", "searched", toSearch, () => search(toSearch, usualThreshold(calibration)));
  await listPeople();
}

function onSubmit(form, status, slot, way) {
  element(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = element(form).querySelector(":scope > button");
    if (slot.file === null) {
      element(status).textContent = "Choose a photo first.";
      return;
    }
    button.disabled = true;
    element(status).textContent = "A moment";
    try {
      element(status).textContent = await way();
    } catch (error) {
      element(status).textContent = error.message;
    }
    button.disabled = false;
  });
}

async function enroll(slot) {
  const name = element("name").value;
  const fields = { photo: slot.file };
  const answer = await ask(`/v1/people/${encodeURIComponent(name)}`, { method: "POST", fields });
  slot.clear();
  element("name").value = "";
  await listPeople();
  return `${answer.name} is enrolled, with ${counted(answer.samples)}.`;
}

async function search(slot, usual) {
  element("matches").replaceChildren();
  const answer = await ask("/v1/search", { method: "POST", fields: { photo: slot.file, k: 5 } });
  slot.show(answer, answer.chosen);
  for (const { name, distance, probability } of answer.matches) {
    const line = create("li", {});
    line.append(create("span", { className: "name", textContent: name }));
    const told = probability === null ? "" : `, ${percent(probability)} at even odds`;
    line.append(create("span", { textContent: `distance ${distance.toFixed(3)}${told}` }));
    element("matches").append(line);
  }
  if (!answer.matches.length) return "Nobody is enrolled yet.";
  if (usual === null) return "The nearest people:";
  const { threshold, false_match_rate: rate } = usual;
  const [{ name, distance }] = answer.matches;
  const known = distance < threshold ? `${name}, nearer` : "Nobody of the gallery: none is nearer";
  return `${known} than the threshold of ${threshold.toFixed(3)} (false-match rate ${percent(rate)}). The nearest people:`;
}

async function listPeople() {
  const { people } = await ask("/v1/people");
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
      element("enrolled").textContent = `${name} is removed.`;
    } catch (error) {
      element("enrolled").textContent = error.message;
    }
    await listPeople();
  };
  dialog.showModal();
}

function counted(samples) {
  return samples === 1 ? "1 photo" : `${samples} photos`;
}
