"use strict";
// One view (zoom, centre) for all panels. Differences are computed here, so that the gain costs nothing.

const data = JSON.parse(document.getElementById("pictures").textContent);
const byId = id => document.getElementById(id);
const panels = [...document.querySelectorAll("canvas")];
const view = {zoom: 1, x: 0.5, y: 0.5}; // x, y: the centre, as a share of the picture's width and height
const ZOOMS = [1, 64];
let shown = -1;
let sources = []; // of each panel, a canvas at the pictures' own size; [0] is the original
let raw = []; // ImageData of the original and of each reconstruction

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

async function pixelsOf(uri) {
  const picture = new Image();
  picture.src = uri;
  await picture.decode();
  const canvas = canvasOf(picture.naturalWidth, picture.naturalHeight);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(picture, 0, 0);
  return {canvas, values: context.getImageData(0, 0, canvas.width, canvas.height)};
}

async function show(number) {
  const turn = shown = (number + data.images.length) % data.images.length;
  const image = data.images[turn];
  const read = await Promise.all([image.original, ...image.outputs].map(pixelsOf));
  if (turn !== shown) return; // another picture was asked for meanwhile
  raw = read.map(one => one.values);
  sources = read.map(one => one.canvas);
  byId("number").textContent = `${turn + 1} of ${data.images.length}: image ${image.index}`;
  data.names.forEach((name, i) => { byId(`psnr-${i}`).textContent = `${image.psnr[i].toFixed(2)} dB`; });
  for (const canvas of panels) canvas.style.aspectRatio = `${raw[0].width} / ${raw[0].height}`;
  differences();
  document.documentElement.dataset.shown = String(turn);
}

/** Reconstruction minus original, times the gain, around mid-grey: one canvas for each reconstruction. */
function differences() {
  const gain = 2 ** Number(byId("gain").value);
  byId("gain-value").textContent = `${gain}x`;
  if (!raw.length) return;
  const original = raw[0].data;
  for (let i = 1; i < raw.length; i++) {
    const made = new ImageData(raw[i].width, raw[i].height);
    for (let k = 0; k < original.length; k++)
      made.data[k] = k % 4 === 3 ? 255 : 128 + gain * (raw[i].data[k] - original[k]);
    const canvas = canvasOf(made.width, made.height);
    canvas.getContext("2d").putImageData(made, 0, 0);
    sources[data.names.length + i] = canvas;
  }
  draw();
}

function draw() {
  const half = 0.5 / view.zoom;
  view.x = Math.min(1 - half, Math.max(half, view.x)); // the picture always fills its panel
  view.y = Math.min(1 - half, Math.max(half, view.y));
  byId("zoom-value").textContent = `${view.zoom.toFixed(1)}x`;
  document.documentElement.dataset.zoom = String(view.zoom);
  panels.forEach((panel, i) => {
    const source = sources[i];
    if (!source) return;
    const box = panel.getBoundingClientRect(), scale = window.devicePixelRatio;
    panel.width = Math.max(1, Math.round(box.width * scale));
    panel.height = Math.max(1, Math.round(box.height * scale));
    const context = panel.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(source, (view.x - half) * source.width, (view.y - half) * source.height,
      source.width / view.zoom, source.height / view.zoom, 0, 0, panel.width, panel.height);
  });
}

/** Zoom by a factor; the point (x, y) of the panel, both 0 to 1, stays where it is. */
function zoom(factor, x = 0.5, y = 0.5) {
  const before = view.zoom;
  view.zoom = Math.min(ZOOMS[1], Math.max(ZOOMS[0], before * factor));
  view.x += (x - 0.5) * (1 / before - 1 / view.zoom);
  view.y += (y - 0.5) * (1 / before - 1 / view.zoom);
  draw();
}

function whole() {
  Object.assign(view, {zoom: 1, x: 0.5, y: 0.5});
  draw();
}

for (const panel of panels) {
  panel.addEventListener("wheel", event => {
    event.preventDefault();
    const box = panel.getBoundingClientRect();
    zoom(2 ** (-Math.sign(event.deltaY) / 2), (event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height);
  }, {passive: false});
  panel.addEventListener("pointerdown", event => {
    panel.setPointerCapture(event.pointerId);
    panel.classList.add("held");
  });
  panel.addEventListener("pointermove", event => {
    if (!panel.classList.contains("held")) return;
    const box = panel.getBoundingClientRect();
    view.x -= event.movementX / box.width / view.zoom;
    view.y -= event.movementY / box.height / view.zoom;
    draw();
  });
  for (const end of ["pointerup", "pointercancel"]) panel.addEventListener(end, () => panel.classList.remove("held"));
  panel.addEventListener("dblclick", whole);
}

const actions = {
  "previous": () => show(shown - 1), "next": () => show(shown + 1),
  "closer": () => zoom(2), "further": () => zoom(0.5), "whole": whole,
};
for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", action);
const keys = {ArrowLeft: "previous", ArrowRight: "next", "+": "closer", "=": "closer", "-": "further", "0": "whole"};
document.addEventListener("keydown", event => {
  if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) return;
  if (keys[event.key]) actions[keys[event.key]]();
});
byId("gain").addEventListener("input", differences);
byId("gain").addEventListener("change", () => byId("gain").blur()); // the arrow keys turn pages again
window.addEventListener("resize", draw);

show(0).then(() => { document.documentElement.dataset.ready = "yes"; });
