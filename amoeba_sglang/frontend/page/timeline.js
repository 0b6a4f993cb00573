// Workers as rows, time from left to right, coloured by degree.

import { SPAN } from "./model.js";

const LEFT = 34, BOTTOM = 18, LEAST_MARK = 3, TEXT = 11, LABEL = 60;

export function variable(degree) {
  return `--d${Math.min(degree, 16)}`;
}

function colour(degree) {
  return getComputedStyle(document.documentElement).getPropertyValue(variable(degree));
}

export function draw(canvas, model) {
  const rows = model.server.workers, height = Math.max(8, Math.min(30, 300 / rows));
  const width = canvas.clientWidth, scale = window.devicePixelRatio || 1;
  const whole = rows * height + BOTTOM;
  canvas.style.height = `${whole}px`;
  canvas.width = width * scale;
  canvas.height = whole * scale;
  const paint = canvas.getContext("2d");
  paint.scale(scale, scale);
  paint.font = `${TEXT}px system-ui, sans-serif`;
  paint.textBaseline = "middle";
  const style = getComputedStyle(canvas), ink = style.color;
  const end = model.seen, x = (at) => LEFT + (width - LEFT) * Math.max(0, 1 - (end - at) / SPAN);
  layouts(paint, model, { x, end, height, ink });
  for (const move of model.moves) band(paint, move, { x, end, height });
  axis(paint, { x, end, rows, height, width, ink });
}

function layouts(paint, model, { x, end, height, ink }) {
  const begun = new Map();
  model.layouts.forEach((layout, number) => {
    const next = model.layouts[number + 1], stays = new Set(next?.instances.map(String));
    for (const ranks of layout.instances) {
      const from = begun.get(String(ranks)) ?? layout.at;
      if (stays.has(String(ranks))) {
        begun.set(String(ranks), from);
      } else {
        begun.delete(String(ranks));
        instance(paint, ranks, { from: x(from), to: x(next?.at ?? end), height, ink });
      }
    }
  });
}

function instance(paint, ranks, { from, to, height, ink }) {
  const whole = ranks.length * height;
  paint.fillStyle = colour(ranks.length);
  paint.fillRect(from, ranks[0] * height + 1, to - from, whole - 2);
  if (to - from > 24 && whole > TEXT) {
    paint.fillStyle = ranks.length === 1 ? ink : ranks.length < 16 ? "#111" : "#fff";
    paint.fillText(`${ranks.length}`, to - 14, (ranks[0] + ranks.length / 2) * height);
  }
}

// The share of layers that are at the new degree, from none at the bottom to all at the top. What
// is over in an instant is still a mark.
function band(paint, move, { x, end, height }) {
  const top = move.ranks[0] * height, whole = move.ranks.length * height;
  const from = x(move.began), to = Math.max(x(move.ended ?? end), from + LEAST_MARK);
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--move");
  paint.fillStyle = move.failed ? "#d55e00" : ink;
  paint.globalAlpha = 0.75;
  paint.beginPath();
  paint.moveTo(from, top + whole);
  const last = move.path.length - 1;
  move.path.forEach(([at, share], number) => {
    const across = number === last && move.ended ? to : Math.min(to, Math.max(from, x(at)));
    paint.lineTo(across, top + whole * (1 - share));
  });
  paint.lineTo(to, top + whole);
  paint.fill();
  paint.globalAlpha = 1;
  paint.fillRect(from, top, 1, whole);
}

function axis(paint, { x, end, rows, height, width, ink }) {
  paint.fillStyle = ink;
  const every = Math.ceil(12 / height);
  for (let rank = 0; rank < rows; rank += every) paint.fillText(`${rank}`, 8, Math.max(TEXT, (2 * rank + 1) * height) / 2);
  const apart = (x(end) - x(end - 30)) > LABEL ? 30 : 60;
  for (let ago = SPAN; ago > 0; ago -= apart) {
    paint.fillText(`−${ago} s`, x(end - ago) + 2, rows * height + BOTTOM / 2);
  }
  paint.fillText("now", width - 26, rows * height + BOTTOM / 2);
}
