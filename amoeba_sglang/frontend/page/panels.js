// Lists beside the charts.

import { ms, name } from "./model.js";
import { colour } from "./timeline.js";

// Ids that the server made are long, and nobody reads them.
const short = (text) => text.replace(/\b([0-9a-f]{8})[0-9a-f]{24}\b/g, "$1…");
const count = (number) => number.toLocaleString("en");

export function makeLegend(element, degrees) {
  element.replaceChildren(
    ...degrees.map((degree) => item("span", [swatch(colour(degree)), `degree ${degree}`])),
    item("span", [swatch("var(--move)"), "layers that have moved"]),
  );
}

// order({ ranks, degree }) asks the server for it.
export function showInstances(list, model, order) {
  const { running, queued, used, leased } = model.frame.instances;
  list.replaceChildren(...model.instances().map((ranks, number) => {
    const degree = ranks.length, most = model.server.instance_tokens[degree];
    const fill = document.createElement("b"), mark = document.createElement("i");
    fill.style.cssText = `width:${Math.min(100, (100 * used[number]) / most)}%;background:${colour(degree)}`;
    mark.style.left = `${(100 * degree * model.server.own_tokens) / most}%`;
    mark.title = "what the workers have alone; right of it: grown, in memory that weights gave up";
    const told = [`${count(used[number])} of ${count(most)} used`];
    if (degree > 1) told.push(`${count(model.grown(degree))} grown`, `${count(leased[number])} leased`);
    const buttons = model.orders(ranks).map(({ text, ...wanted }) => {
      const button = item("button", [text]);
      button.disabled = model.frame.operation !== null;
      button.onclick = () => order(wanted);
      return button;
    });
    return item("li", [
      item("div", [
        item("strong", [`${name(ranks)} · degree ${degree}`]),
        item("span", [`${running[number]} run, ${queued[number]} queued`], "soft"),
        item("span", buttons),
      ], "row"),
      item("div", degree > 1 ? [fill, mark] : [fill], "bar"),
      item("div", [told.join(" · ")], "soft"),
    ]);
  }));
}

export function showLong(section, frame) {
  const waiting = frame.long.filter((one) => one.rank === null).length;
  section.querySelector("small").textContent = `${waiting} wait, ${frame.long_count} in all`;
  section.querySelector("ul").replaceChildren(...(frame.long.length ? frame.long.map((one) => item("li", [
    item("div", [
      item("strong", [`${count(one.tokens)} tokens`]),
      item("span", [one.rank === null ? `waits ${ms(one.seconds)}` : `at rank ${one.rank} for ${ms(one.seconds)}`]),
    ], "row"),
    item("div", [short(one.reason ?? one.rid)], "soft"),
  ])) : [item("li", ["none"], "soft")]));
}

export function showLog(list, model) {
  const latest = [...model.log].sort((a, b) => b.at - a.at).slice(0, 60);
  list.replaceChildren(...(latest.length ? latest.map(({ at, text, reason, failed }) => item("li", [
    item("div", [item("span", [short(text)], failed ? "failed" : ""), item("span", [`${ms(model.seen - at)} ago`], "soft")], "row"),
    item("div", [short(reason ?? "")], "soft"),
  ])) : [item("li", ["nothing yet"], "soft")]));
}

function swatch(background) {
  const made = document.createElement("i");
  made.style.background = background;
  return made;
}

function item(tag, children, kind = "") {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}
