// What the page knows: the layout over time and the last frame. Times are the server's, in seconds.

export const SPAN = 180;
const POINTS = 2 * SPAN;

export class Model {
  // From a view, which says everything; the page forgets what it knew of an earlier server.
  constructor(view) {
    this.server = view.server;
    this.about = view.about;
    // By time: when a layout began, and its instances.
    this.layouts = [];
    // Of finished transformations and, last, of the one that runs.
    this.moves = [];
    this.log = [];
    this.beats = { at: [], rate: [], ttft: [], tpot: [], gap: [] };
    this.seen = -Infinity;
    // Workers start alone; of a long history the beginning is not told any more.
    if (view.ended.length < view.server.history) {
      const alone = Array.from({ length: view.server.workers }, (_, rank) => [rank]);
      this.layouts.push({ at: view.server.opened, instances: alone });
    }
    this.take(view);
  }

  // A view or frame; those that are older than what is known say nothing new.
  take(frame) {
    if (frame.now <= this.seen) return;
    for (const record of frame.ended) if (record.at > this.seen) this.#end(record);
    for (const one of frame.decided) {
      if (one.at > this.seen) this.log.push({ at: one.at, text: one.decision, reason: one.reason });
    }
    if (!this.layouts.length) this.layouts.push({ at: frame.now, instances: this.#now(frame) });
    this.#follow(frame.operation, frame.now);
    if (frame.beat) this.#beat(frame.now, frame.beat);
    this.frame = frame;
    this.seen = frame.now;
    this.#forget(frame.now - SPAN);
  }

  // Instances as lists of ranks.
  instances() {
    return this.#now(this.frame);
  }

  grown(degree) {
    return this.server.instance_tokens[degree] - degree * this.server.own_tokens;
  }

  // What an operator may ask for: { text, ranks, degree }.
  orders(ranks) {
    const degrees = this.server.degrees, at = degrees.indexOf(ranks.length), found = [];
    if (at > 0) {
      found.push({ text: `split ${name(ranks)}`, ranks, degree: degrees[at - 1] });
    }
    const next = degrees[at + 1];
    if (next !== undefined && ranks[0] % next === 0) {
      const block = Array.from({ length: next }, (_, i) => ranks[0] + i);
      const inside = this.instances().filter((other) => block.includes(other[0]));
      if (inside.every((other) => other.length < next)) {
        found.push({ text: `merge ${name(block)}`, ranks: block, degree: next });
      }
    }
    return found;
  }

  #now(frame) {
    let first = 0;
    return frame.instances.degree.map((degree) => {
      const ranks = Array.from({ length: degree }, (_, i) => first + i);
      first += degree;
      return ranks;
    });
  }

  #end(record) {
    const failed = !["done", "unchanged"].includes(record.outcome);
    const took = record.outcome === "done" ? `, ${ms(record.seconds)}` : "";
    const text = `${record.kind} of ${name(record.ranks)} to degree ${record.degree}: ${record.outcome}${took}`;
    this.log.push({ at: record.at, text, reason: record.error ?? record.reason, failed });
    const move = this.moves.find((one) => one.id === record.operation_id);
    const began = record.at - record.seconds + (record.prepare_seconds ?? 0);
    if (record.outcome === "done" || record.outcome === "undone") {
      const ended = { id: record.operation_id, ranks: record.ranks, began, ended: record.at, failed };
      ended.path = [[began, 0], ...(move?.path ?? []).filter(([at]) => at > began), [record.at, failed ? 0 : 1]];
      this.moves = this.moves.filter((one) => one !== move);
      this.moves.push(ended);
      if (!failed) this.layouts.push({ at: record.at, instances: record.instances });
    } else {
      this.moves = this.moves.filter((one) => one !== move);
    }
  }

  #follow(operation, now) {
    if (operation?.phase !== "commit") return;
    let move = this.moves.find((one) => one.id === operation.operation_id);
    if (!move) {
      move = { id: operation.operation_id, ranks: operation.ranks, began: now, path: [] };
      move.merges = operation.kind === "merge";
      this.moves.push(move);
    }
    const share = operation.boundary / operation.layers;
    move.path.push([now, move.merges ? 1 - share : share]);
  }

  #beat(now, beat) {
    const { at, rate, ttft, tpot, gap } = this.beats;
    at.push(now);
    rate.push(beat.tokens_per_second);
    for (const [list, value] of [[ttft, beat.ttft], [tpot, beat.tpot], [gap, beat.gap]]) {
      list.push(value === null ? null : 1000 * value);
    }
    if (at.length > POINTS) for (const list of Object.values(this.beats)) list.shift();
  }

  #forget(before) {
    while (this.layouts.length > 1 && this.layouts[1].at < before) this.layouts.shift();
    this.moves = this.moves.filter((move) => (move.ended ?? Infinity) > before);
    if (this.log.length > 200) this.log.splice(0, this.log.length - 200);
  }
}

export function name(ranks) {
  return ranks.length > 1 ? `ranks ${ranks[0]}–${ranks.at(-1)}` : `rank ${ranks[0]}`;
}

export function ms(seconds) {
  return seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(1)} s`;
}
