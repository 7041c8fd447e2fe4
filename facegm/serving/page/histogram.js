// Where a distance lies among those of the pairs that the model was calibrated on.

const WIDTH = 640, HEIGHT = 230, LEFT = 8, RIGHT = 8, TOP = 44, BOTTOM = 34;

// An SVG of both histograms, each as shares of its own pairs, with the distance and the threshold on them.
export function histogram({ edges, same, different }, distance, threshold) {
  const right = edges[edges.length - 1];
  const x = (value) => LEFT + ((WIDTH - LEFT - RIGHT) * value) / right;
  const kinds = [["of-different", different], ["of-same", same]].map(([name, counts]) => [name, shares(counts)]);
  const highest = Math.max(...kinds.flatMap(([, found]) => found), Number.EPSILON);
  const y = (share) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * share) / highest;
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  picture.setAttribute("aria-label", `Distance ${distance.toFixed(3)} on the histogram of measured distances`);
  for (const [name, found] of kinds) {
    const steps = found.map((share, bin) => `L${x(edges[bin])} ${y(share)}L${x(edges[bin + 1])} ${y(share)}`);
    picture.append(svg("path", { class: name, d: `M${x(edges[0])} ${y(0)}${steps.join("")}L${x(right)} ${y(0)}Z` }));
  }
  picture.append(svg("line", { class: "axis", x1: x(0), x2: x(right), y1: y(0), y2: y(0) }));
  for (let tick = 0; tick <= right; tick += 0.5) {
    const anchor = tick === 0 ? "start" : tick === right ? "end" : "middle";
    picture.append(text(tick.toFixed(1), { x: x(tick), y: HEIGHT - 14, "text-anchor": anchor }));
  }
  if (threshold !== null) picture.append(upright("threshold", x(threshold), y(0), TOP - 8));
  picture.append(upright("distance", x(distance), y(0), TOP - 20));
  const anchor = distance > 0.8 * right ? "end" : distance < 0.2 * right ? "start" : "middle";
  picture.append(text(distance.toFixed(3), { class: "at-distance", x: x(distance), y: TOP - 26, "text-anchor": anchor }));
  picture.append(text("one person", { class: "of-same", x: x(0.05), y: TOP - 6 }));
  picture.append(text("different people", { class: "of-different", x: x(right), y: TOP - 6, "text-anchor": "end" }));
  return picture;
}

// The share of pairs that lie below a distance, which may cut a bin.
export function shareBelow({ edges }, counts, distance) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const below = counts.reduce((sum, count, bin) => {
    const part = (distance - edges[bin]) / (edges[bin + 1] - edges[bin]);
    return sum + count * Math.min(1, Math.max(0, part));
  }, 0);
  return total ? below / total : 0;
}

function shares(counts) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  return counts.map((count) => (total ? count / total : 0));
}

function upright(name, at, from, to) {
  return svg("line", { class: name, x1: at, x2: at, y1: from, y2: to });
}

function text(content, attributes) {
  const element = svg("text", attributes);
  element.textContent = content;
  return element;
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
