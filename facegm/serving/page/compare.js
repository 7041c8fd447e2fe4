// Two photos compared: by the embeddings of their chosen faces, and by what the model's calibration says of a distance.

import { histogram, shareBelow } from "/page/histogram.js";
import { create, PhotoSlot } from "/page/photo-slot.js";

const USUAL_RATE = 0.001;
const element = (id) => document.getElementById(id);

export function startComparing(calibration) {
  const update = () => compare(a, b, calibration);
  const [a, b] = ["photo-a", "photo-b"].map((id) => new PhotoSlot(element(id), { showsFaces: true, onChange: update }));
  offerRates(calibration);
  element("rate").addEventListener("change", update);
  element("prior").addEventListener("input", update);
}

function probabilityOf(distance, { offset, slope }, prior) {
  return 1 / (1 + Math.exp(-(offset + slope * distance + Math.log(prior / (1 - prior)))));
}

// What the server takes too where no rate is asked for; null where none was measured.
function usualThreshold(calibration) {
  const found = calibration?.thresholds ?? [];
  const smallest = Math.min(...found.map((one) => one.false_match_rate));
  const usual = found.find((one) => one.false_match_rate === USUAL_RATE);
  return usual ?? found.find((one) => one.false_match_rate === smallest) ?? null;
}

function offerRates(calibration) {
  element("settings").hidden = calibration === null;
  for (const { false_match_rate: rate } of calibration?.thresholds ?? []) {
    element("rate").append(create("option", { value: rate, textContent: percent(rate) }));
  }
  element("rate").value = usualThreshold(calibration)?.false_match_rate ?? "";
}

function compare(a, b, calibration) {
  element("comparison").hidden = a.face === null || b.face === null;
  if (element("comparison").hidden) {
    element("verdict").textContent = "";
    return;
  }
  const distance = Math.hypot(...a.face.embedding.map((value, k) => value - b.face.embedding[k]));
  if (calibration === null) {
    element("verdict").textContent = `Distance ${distance.toFixed(3)}`;
    element("measured").textContent =
      "This model has not been calibrated, so nobody knows what a distance means. " +
      "facegm verify MODEL --photos PHOTOS --pairs PAIRS --calibrate measures it on a set of pairs.";
    element("histogram").hidden = true;
    return;
  }
  const found = calibration.thresholds.find((one) => String(one.false_match_rate) === element("rate").value);
  const threshold = found?.threshold ?? null;
  const prior = Number(element("prior").value) / 100;
  const probability = prior > 0 && prior < 1 ? probabilityOf(distance, calibration, prior) : null;
  element("verdict").textContent = threshold === null ? `Distance ${distance.toFixed(3)}` :
    distance < threshold ? "One person" : "Different people";
  element("measured").textContent = [
    threshold === null ? "" : `Distance ${distance.toFixed(3)}, threshold ${threshold.toFixed(3)}. `,
    probability === null ? "Give a percentage above 0 and below 100." :
      `Probability of one person: ${percent(probability)}.`,
  ].join("");
  draw(calibration, distance, threshold);
}

function draw(calibration, distance, threshold) {
  const { histogram: measured, measured_on: set } = calibration;
  element("histogram").hidden = false;
  if (!measured) {
    element("histogram").replaceChildren("The model was calibrated before histograms were kept; calibrate it again to see one.");
    return;
  }
  const [beyond, below] = [1 - shareBelow(measured, measured.same, distance), shareBelow(measured, measured.different, distance)];
  const told = `Measured on ${set}: ${percent(beyond)} of ${calibration.same.toLocaleString("en")} pairs of one person lie ` +
    `farther apart than these two faces, ${percent(below)} of ${calibration.different.toLocaleString("en")} pairs of ` +
    `different people nearer.${threshold === null ? "" : " The dashed line is the threshold."}`;
  element("histogram").replaceChildren(histogram(measured, distance, threshold), create("figcaption", { textContent: told }));
}

export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.01) return `${Number(value.toPrecision(1))} %`;
  return `${value > 99.9 && value < 100 ? Math.min(99.99, value).toFixed(2) : Number(value.toPrecision(3))} %`;
}
