// A line chart that grows: uPlot, with our colours, both axes by choice and a zoom that new points leave alone.

import { button, element } from "./elements.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Chart {
  #points; // by series name: [{step, seconds, value}], oldest first
  #plot = null;
  #zoomed = false;
  #stale = false; // something was appended while nobody could see it
  #right = false; // whether something is drawn on the right axis
  #x = "step";

  /**
   * spec: {title, hint, empty, rare, band: [low, high], format: value -> text, series: [{name, label, colour, dash, steps, scale}]};
   * scale "right" gives a series an axis of its own; a rare chart, of what many runs never have, is there once it has points.
   */
  constructor(parent, spec) {
    this.spec = spec;
    this.#points = new Map(spec.series.map(({ name }) => [name, []]));
    this.card = element("article", "chart card", parent);
    const head = element("header", "", this.card);
    element("h2", "", head, spec.title);
    this.all = button(head, "show all", () => this.#zoom(false), "all");
    this.all.hidden = true;
    const legend = element("div", "legend", head);
    this.values = new Map();
    for (const series of spec.series) {
      const key = element("span", "key", legend);
      key.dataset.colour = series.colour;
      element("i", series.dash ? "dashed" : "", key);
      element("span", "", key, series.label);
      this.values.set(series.name, element("b", "", key));
      key.hidden = true;
      series.key = key;
    }
    this.area = element("div", "area", this.card);
    this.empty = element("p", "empty", this.area, spec.empty ?? "");
    this.card.hidden = Boolean(spec.rare);
    if (spec.hint) element("p", "hint", this.card, spec.hint);
    new ResizeObserver(() => this.#resize()).observe(this.area);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plot?.redraw());
  }

  get names() {
    return this.spec.series.map(({ name }) => name);
  }

  /** Add columns {step, seconds, value} to a series. */
  append(name, columns) {
    const points = this.#points.get(name);
    columns.step.forEach((step, i) => {
      while (points.length && points.at(-1).step > step) points.pop(); // the run went back to a checkpoint
      points.push({ step, seconds: columns.seconds[i], value: columns.value[i] });
    });
  }

  clear() {
    for (const points of this.#points.values()) points.length = 0;
  }

  /** Let x be "step" or "seconds". */
  setAxis(x) {
    this.#x = x;
    this.#zoom(false);
  }

  /** Draw what has been appended, once somebody can see it; a zoom stays where it is. */
  draw() {
    const shown = this.spec.series.filter(({ name }) => this.#points.get(name).length);
    this.card.hidden = Boolean(this.spec.rare) && !shown.length;
    this.#stale = this.area.clientWidth === 0;
    if (this.#stale) return;
    for (const series of this.spec.series) {
      const points = this.#points.get(series.name);
      series.key.hidden = !points.length;
      this.#tell(series, points.at(-1)?.value);
    }
    this.empty.hidden = shown.length > 0;
    if (!shown.length) {
      this.#plot?.destroy();
      this.#plot = null;
      return;
    }
    const data = this.#aligned();
    const { min, max } = this.#plot?.scales.x ?? {};
    const right = shown.some(({ scale }) => scale === "right");
    if (right !== this.#right) { // an axis comes or goes: the plot is another one
      this.#plot?.destroy();
      this.#plot = null;
    }
    this.#right = right;
    const made = this.#plot === null;
    this.#plot ??= this.#make(data);
    if (this.#zoomed) {
      this.#plot.batch(() => {
        this.#plot.setData(data, false);
        this.#plot.setScale("x", { min, max });
      });
    } else if (!made) this.#plot.setData(data, true);
  }

  #zoom(zoomed) {
    this.#zoomed = zoomed;
    this.all.hidden = !zoomed;
    if (!zoomed) this.draw();
  }

  #tell(series, value) {
    this.values.get(series.name).textContent = value === null || value === undefined ? "" : this.spec.format(value);
  }

  #aligned() {
    const xs = [...new Set([...this.#points.values()].flatMap((points) => points.map((point) => point[this.#x])))].sort((a, b) => a - b);
    const where = new Map(xs.map((x, i) => [x, i]));
    const columns = this.spec.series.map(({ name }) => {
      const column = new Array(xs.length).fill(undefined);
      for (const point of this.#points.get(name)) column[where.get(point[this.#x])] = point.value;
      return column;
    });
    return [xs, ...columns];
  }

  #make(data) {
    const { spec } = this;
    const right = this.#right;
    const axis = (more) => ({
      stroke: () => css("--muted"),
      grid: { stroke: () => css("--line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
      ...more,
    });
    const options = {
      width: Math.max(80, this.area.clientWidth),
      height: Math.max(80, this.area.clientHeight),
      legend: { show: false },
      padding: [10, right ? 0 : 14, 0, 0],
      cursor: { y: false, drag: { x: true, y: false }, points: { size: 6 } },
      scales: { x: { time: false }, y: { range: spec.range ?? padded }, right: { range: padded } },
      axes: [
        axis({ values: (_, ticks) => ticks.map((tick) => this.#tick(tick)), space: 64, size: 28, gap: 6 }),
        axis({ scale: "y", values: (_, ticks) => ticks.map(spec.format), size: 54, gap: 6 }),
        ...(right ? [axis({ scale: "right", side: 1, values: (_, ticks) => ticks.map(spec.format), size: 54, gap: 6, grid: { show: false } })] : []),
      ],
      series: [
        {},
        ...spec.series.map((series) => ({
          label: series.label,
          scale: series.scale ?? "y",
          stroke: () => css(`--${series.colour}`),
          width: 2,
          dash: series.dash ? [5, 4] : undefined,
          spanGaps: false,
          paths: series.steps ? uPlot.paths.stepped({ align: 1 }) : undefined,
          points: { show: (plot) => plot.data[0].length < 12, size: 5, fill: () => css(`--${series.colour}`) },
        })),
      ],
      hooks: {
        drawClear: spec.band ? [(plot) => this.#drawBand(plot)] : [],
        setSelect: [(plot) => { if (plot.select.width > 0) this.#zoom(true); }],
        setCursor: [({ cursor, data: drawn }) => this.#tellAt(cursor.idx, drawn)],
      },
    };
    const plot = new uPlot(options, data, this.area);
    plot.over.addEventListener("dblclick", () => this.#zoom(false));
    return plot;
  }

  #tellAt(index, data) {
    this.spec.series.forEach((series, i) => {
      const value = index === null || index === undefined ? this.#points.get(series.name).at(-1)?.value : data[i + 1][index];
      this.#tell(series, value);
    });
  }

  #tick(x) {
    if (this.#x === "step") return x >= 1e6 ? `${+(x / 1e6).toFixed(2)} M` : x >= 1e3 ? `${+(x / 1e3).toFixed(1)} k` : String(x);
    return x >= 3600 ? `${+(x / 3600).toFixed(2)} h` : `${+(x / 60).toFixed(1)} min`;
  }

  #drawBand(plot) {
    const [low, high] = this.spec.band;
    const top = plot.valToPos(high, "y", true);
    const { left, width } = plot.bbox;
    plot.ctx.save();
    plot.ctx.fillStyle = css("--band");
    plot.ctx.fillRect(left, top, width, plot.valToPos(low, "y", true) - top);
    plot.ctx.restore();
  }

  #resize() {
    if (this.area.clientWidth === 0) return; // its panel was put aside; it comes back as it was
    if (this.#stale) this.draw();
    this.#plot?.setSize({ width: Math.max(80, this.area.clientWidth), height: Math.max(80, this.area.clientHeight) });
  }
}

/** A tenth of air above and below. */
function padded(_plot, low, high) {
  if (low === null || high === null) return [0, 1];
  const air = (high - low || Math.abs(high) || 1) * 0.1;
  return [low >= 0 && low - air < 0 ? 0 : low - air, high + air];
}
