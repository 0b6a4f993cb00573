import { Chart } from "./charts.js";
import { Model } from "./model.js";
import { makeLegend, showInstances, showLog, showLong } from "./panels.js";
import { follow, reason, withKey } from "./stream.js";
import { draw } from "./timeline.js";

const at = (id) => document.getElementById(id);
// Kept while the page is open, and nowhere else.
let key = "", admin = "", model = null;

const charts = [
  new Chart(at("rate"), [{ label: "tokens/s", key: "rate", colour: "#0072b2" }]),
  new Chart(at("ttft"), [{ label: "median", key: "ttft", colour: "#009e73", points: true }]),
  new Chart(at("tpot"), [
    { label: "mean", key: "tpot", colour: "#0072b2" },
    { label: "longest", key: "gap", colour: "#e69f00", points: true },
  ]),
];

function take(event, data) {
  if (event === "view") {
    model = new Model(data);
    introduce();
  } else if (event === "frame" && model) {
    model.take(data);
    warn("");
  } else if (event === "trouble") {
    warn(`The server does not say how it is: ${data.error}`);
  } else if (event === "end") {
    warn(`The server ends: ${data.error}`);
  }
  show();
}

function introduce() {
  const { plane, emulated } = model.server;
  at("model").textContent = model.about.model;
  at("plane").textContent = emulated ? "EMULATED" : plane.toUpperCase();
  at("plane").hidden = false;
  makeLegend(at("legend"), model.server.degrees);
}

function show() {
  if (!model || document.hidden) return;
  draw(at("timeline"), model);
  for (const chart of charts) chart.draw(model.beats);
  showInstances(document.querySelector("#instances ul"), model, order);
  showLong(at("long"), model.frame);
  showLog(document.querySelector("#log ol"), model);
}

function warn(text) {
  at("banner").textContent = text;
  at("banner").hidden = !text;
}

function say(text, good) {
  at("connection").textContent = text;
  at("connection").className = `badge ${good ? "good" : "bad"}`;
}

async function ask(why) {
  const dialog = at("key");
  at("why").textContent = why;
  dialog.querySelector("input").value = "";
  dialog.showModal();
  await new Promise((resume) => dialog.addEventListener("close", resume, { once: true }));
  return dialog.returnValue === "use" ? dialog.querySelector("input").value : "";
}

async function order(wanted) {
  for (;;) {
    const response = await fetch("transform", {
      method: "POST",
      headers: { "content-type": "application/json", ...withKey(admin || key) },
      body: JSON.stringify(wanted),
    });
    if (response.status === 401 || response.status === 403) {
      admin = await ask("Only who has the admin key may change the layout.");
      if (admin) continue;
    } else if (!response.ok) {
      warn(`The layout stays: ${await reason(response)}`);
    }
    return;
  }
}

addEventListener("resize", show);
document.addEventListener("visibilitychange", show);
follow({ take, say, key: () => key, ask: async (why) => (key = await ask(why)) });
