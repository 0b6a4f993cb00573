// Lists beside the charts.

import { ms, name } from "./model.js";
import { variable } from "./timeline.js";

// Ids that the server made are long, and nobody reads them.
const short = (text) => text.replace(/\b([0-9a-f]{8})[0-9a-f]{24}\b/g, "$1…");
const count = (number) => number.toLocaleString("en");

export function makeLegend(element, degrees) {
  element.replaceChildren(
    ...degrees.map((degree) => item("span", [swatch(`var(${variable(degree)})`), `degree ${degree}`])),
    item("span", [swatch("var(--move)"), "layers that have moved"]),
  );
}

// order({ ranks, degree }) asks the server for it. A row stays until the layout changes: a button
// must not go away under a click.
export function showInstances(list, model, order) {
  const layout = `${model.server.opened} ${JSON.stringify(model.instances())}`;
  if (list.dataset.layout !== layout) {
    list.dataset.layout = layout;
    list.replaceChildren(...model.instances().map((ranks) => instance(ranks, model, order)));
  }
  const { degree, running, queued, used, leased } = model.frame.instances;
  [...list.children].forEach((row, number) => {
    const most = model.server.instance_tokens[degree[number]];
    const told = [`${count(used[number])} of ${count(most)} used`];
    if (degree[number] > 1) {
      told.push(`${count(model.grown(degree[number]))} grown`, `${count(leased[number])} leased`);
    }
    row.querySelector(".load").textContent = `${running[number]} run, ${queued[number]} queued`;
    row.querySelector(".told").textContent = told.join(" · ");
    row.querySelector("b").style.width = `${Math.min(100, (100 * used[number]) / most)}%`;
    for (const button of row.querySelectorAll("button")) {
      button.disabled = model.frame.operation !== null;
    }
  });
}

function instance(ranks, model, order) {
  const degree = ranks.length, most = model.server.instance_tokens[degree];
  const fill = document.createElement("b"), mark = document.createElement("i");
  fill.style.background = `var(${variable(degree)})`;
  mark.style.left = `${(100 * degree * model.server.own_tokens) / most}%`;
  mark.title = "what the workers have alone; right of it: grown, in memory that weights gave up";
  const buttons = model.orders(ranks).map(({ text, ...wanted }) => {
    const button = item("button", [text]);
    button.onclick = () => order(wanted);
    return button;
  });
  return item("li", [
    item("div", [
      item("strong", [`${name(ranks)} · degree ${degree}`]),
      item("span", [], "soft load"),
      ...(buttons.length ? [item("span", buttons)] : []),
    ], "row"),
    item("div", degree > 1 ? [fill, mark] : [fill], "bar"),
    item("div", [], "soft told"),
  ]);
}

export function showLong(section, frame) {
  section.querySelector("small").textContent = `${frame.long_waiting} wait, ${frame.long_count} in all`;
  const list = section.querySelector("ul");
  if (isSelected(list)) return;
  list.replaceChildren(...(frame.long.length ? frame.long.map((one) => item("li", [
    item("div", [
      item("strong", [`${count(one.tokens)} tokens`]),
      item("span", [one.rank === null ? `waits ${ms(one.seconds)}` : `at rank ${one.rank} for ${ms(one.seconds)}`]),
    ], "row"),
    item("div", [short(one.reason ?? one.rid)], "soft"),
  ])) : [item("li", ["none"], "soft")]));
}

export function showLog(list, model) {
  if (isSelected(list)) return;
  const latest = [...model.log].sort((a, b) => b.at - a.at).slice(0, 60);
  list.replaceChildren(...(latest.length ? latest.map(({ at, text, reason, failed }) => item("li", [
    item("div", [item("span", [short(text)], failed ? "failed" : ""), item("span", [`${ms(model.seen - at)} ago`], "soft")], "row"),
    item("div", [short(reason ?? "")], "soft"),
  ])) : [item("li", ["nothing yet"], "soft")]));
}

// What somebody wants to copy stays meanwhile.
function isSelected(list) {
  const selection = getSelection();
  return !selection.isCollapsed && list.contains(selection.anchorNode);
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
