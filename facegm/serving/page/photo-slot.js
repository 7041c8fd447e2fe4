// A place for a photo: chosen or dropped, shown with the faces that the server finds in it, one of which is chosen.

import { ask } from "/page/server.js";

let slots = 0;

export class PhotoSlot {
  // Has `onChange` called whenever file or chosen face change; with `showsFaces` the server is asked for the faces.
  constructor(element, { showsFaces, onChange = () => {} }) {
    this.file = null;
    this.faces = [];
    this.chosen = 0;
    this._showsFaces = showsFaces;
    this._onChange = onChange;
    const id = `photo-${slots++}`;
    const drop = create("label", { className: "drop", htmlFor: id });
    drop.append(create("strong", { textContent: element.dataset.title }), "Drop a photo here, or choose one");
    this._input = create("input", { type: "file", id, accept: "image/*" });
    drop.append(this._input);
    this._message = create("p", { className: "message" });
    this._message.setAttribute("role", "status");
    this._photo = create("div", { className: "photo", hidden: true });
    this._image = create("img", { alt: "" });
    this._image.addEventListener("error", () => { this._image.hidden = true; }); // a format that browsers lack, as HEIC
    this._photo.append(this._image);
    this._chosen = create("div", { className: "chosen", hidden: true });
    element.append(drop, this._message, this._photo, this._chosen);
    this._input.addEventListener("change", () => this._take(this._input.files[0]));
    for (const kind of ["dragenter", "dragover"]) {
      element.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
    }
    for (const kind of ["dragleave", "drop"]) element.addEventListener(kind, () => drop.classList.remove("over"));
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      this._take(event.dataTransfer.files[0]);
    });
  }

  get face() {
    return this.faces[this.chosen] ?? null;
  }

  clear() {
    this._input.value = "";
    this._take(undefined);
  }

  // Faces as the server's answer has them, of this slot's file.
  show(answer, chosen) {
    this.faces = answer.faces;
    this._say(this.faces.length ? "" : "No face was found in this photo.", true);
    this._photo.querySelectorAll(".face").forEach((box) => box.remove());
    this.faces.forEach((face, number) => this._photo.append(this._box(face, number, answer)));
    this._choose(chosen);
  }

  async _take(file) {
    this.file = file ?? null;
    this.faces = [];
    this._chosen.hidden = true;
    this._photo.querySelectorAll(".face").forEach((box) => box.remove());
    URL.revokeObjectURL(this._image.src);
    this._photo.hidden = this._image.hidden = this.file === null;
    this._say("");
    if (this.file !== null) {
      this._image.src = URL.createObjectURL(this.file);
      this._image.alt = this.file.name;
    }
    this._onChange();
    if (this.file === null || !this._showsFaces) return;
    this._say("Looking for faces");
    const asked = this.file;
    try {
      const answer = await ask("/v1/embed?chips=true", { method: "POST", fields: { photo: asked } });
      if (asked === this.file) this.show(answer, 0);
    } catch (error) {
      if (asked === this.file) this._say(error.message, true);
    }
  }

  _say(message, isTrouble = false) {
    this._message.textContent = message;
    this._message.classList.toggle("is-trouble", isTrouble);
  }

  _box(face, number, { width, height }) {
    const [left, top, right, bottom] = face.box;
    const box = create("button", { type: "button", className: "face" });
    box.setAttribute("aria-label", `Face ${number + 1} of ${this.faces.length}`);
    box.style.left = `${(100 * left) / width}%`;
    box.style.top = `${(100 * top) / height}%`;
    box.style.width = `${(100 * (right - left)) / width}%`;
    box.style.height = `${(100 * (bottom - top)) / height}%`;
    box.addEventListener("click", () => this._choose(number));
    return box;
  }

  _choose(number) {
    this.chosen = number;
    this._photo.querySelectorAll(".face").forEach((box, other) => box.setAttribute("aria-pressed", other === number));
    this._chosen.replaceChildren();
    this._chosen.hidden = this.face?.chip === undefined;
    if (!this._chosen.hidden) this._chosen.append(create("img", { src: this.face.chip, alt: "Aligned face" }), this._told());
    this._onChange();
  }

  _told() {
    const { quality, probability, is_abnormal: isAbnormal } = this.face;
    const several = this.faces.length > 1 ? `Face ${this.chosen + 1} of ${this.faces.length}; click another box to take that. ` : "";
    const unlike = isAbnormal ? " Unlike the faces that the model knows." : "";
    const told = `${several}Detector ${(100 * probability).toFixed(1)} %, sharpness ${quality.sharpness.toFixed(0)}, ` +
      `turned ${(90 * quality.profile).toFixed(0)}°.${unlike}`;
    return create("p", { className: "quiet", textContent: told });
  }
}

export function create(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}
