// Lines over time, by uPlot.

import { SPAN } from "./model.js";

const HEIGHT = 110;
const AGO = [150, 120, 90, 60, 30];

export class Chart {
  // lines: [{ label, key, colour, points? }]
  constructor(element, lines) {
    this.element = element;
    this.now = document.getElementById(`${element.id}-now`);
    this.keys = lines.map((line) => line.key);
    const axis = {
      stroke: "#7a8593", grid: { stroke: "#8884", width: 1 }, ticks: { show: false }, font: "10px system-ui", gap: 4,
    };
    this.plot = new uPlot({
      width: element.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false, range: (_, __, most) => [most - SPAN, most] }, y: { range: (_, __, most) => [0, most > 0 ? 1.1 * most : 1] } },
      axes: [
        { ...axis, size: 18, splits: (plot) => AGO.map((ago) => plot.scales.x.max - ago), values: () => AGO.map((ago) => `−${ago} s`) },
        { ...axis, size: 44, space: 24, values: (plot, ticks) => ticks.map((value) => value.toLocaleString("en")) },
      ],
      padding: [6, 12, 0, 0],
      series: [{}, ...lines.map(({ label, colour, points }) => ({
        label, stroke: colour, width: points ? 0 : 1.5, spanGaps: !points,
        points: { show: Boolean(points), size: 5, fill: colour, stroke: colour },
      }))],
    }, [[], ...lines.map(() => [])], element);
  }

  draw(beats) {
    const { clientWidth } = this.element;
    if (clientWidth !== this.plot.width) this.plot.setSize({ width: clientWidth, height: HEIGHT });
    // What was last, of each line; a request that has ended leaves no later one.
    this.now.textContent = this.keys.map((key) => last(beats[key])).join(", ");
    this.plot.setData([beats.at, ...this.keys.map((key) => beats[key])]);
  }
}

function last(values) {
  const value = values.findLast((one) => one !== null);
  return value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
}
