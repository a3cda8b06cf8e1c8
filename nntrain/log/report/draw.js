// Draws the figures of an nntrain report, and sorts and filters its tables. It makes no markup out of text.
"use strict";
(() => {
  const { runs, figures, histograms, shapes } = JSON.parse(document.getElementById("drawn").textContent);
  const plots = [...document.querySelectorAll("[data-figure]")];
  const boxes = [...document.querySelectorAll("[data-run]")];
  const byId = (id) => document.getElementById(id);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const outlines = Object.fromEntries(Object.entries(shapes).map(([kind, path]) => [kind, new Path2D(path)]));
  const font = '12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
  const crowd = 12; // of more runs than these the points of the curves have no symbols, and the lines are thin
  const near = 30; // pixels: how far the mouse may be from what it points at

  const themeOf = (isDark) =>
    isDark
      ? { text: "#c9d1d9", line: "#4a525c", grid: "#272c34", card: "#181c21" }
      : { text: "#3a4048", line: "#b8bec6", grid: "#e8ebee", card: "#ffffff" };
  let theme = themeOf(dark.matches);
  let shown = runs.map(() => true);

  // Numbers

  const withoutZeros = (text) => text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "");
  const short = (value, digits = 6) => {
    const size = Math.abs(value);
    if (value === 0) return "0";
    if (size >= 1e6 || size < 1e-4) return withoutZeros(value.toExponential(digits - 1)).replace("e+", "e");
    return String(Number(value.toPrecision(digits)));
  };

  // The running mean that leans on what came before by `weight`; a gap stays a gap.
  const smooth = (values, weight) => {
    let sum = 0;
    let total = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = weight * sum + (1 - weight) * value;
      total = weight * total + (1 - weight);
      return sum / total;
    });
  };

  const padded = ([low, high], part) => {
    if (low === Infinity) return [0, 1];
    const room = high > low ? (high - low) * part : Math.abs(high) * 0.1 || 0.5;
    return [low - room, high + room];
  };

  // A figure

  class Chart {
    constructor(plot, figure) {
      this.plot = plot;
      this.figure = figure;
      this.zoom = null;
      this.isLarge = plot.closest(".large") !== null;
      this.smoothed = figure.curves.map((curve) => curve.y);
      this.make();
    }

    get size() {
      const width = Math.max(200, this.plot.clientWidth);
      return { width, height: this.isLarge ? Math.round(Math.min(460, Math.max(280, width * 0.42))) : 260 };
    }

    get curves() {
      return this.figure.curves.map((curve, at) => ({ ...curve, smooth: this.smoothed[at] })).filter((one) => shown[one.run]);
    }

    get marks() {
      return byId("marks").checked ? this.figure.marks.filter((one) => shown[one.run]) : [];
    }

    make() {
      this.chart?.destroy();
      const positive = this.figure.curves.some((curve) => curve.y.some((y) => y > 0));
      this.isLog = byId("logarithmic").checked && positive;
      const axis = { stroke: () => theme.text, font, grid: { stroke: () => theme.grid, width: 1 } };
      const ticks = { stroke: () => theme.line, width: 1, size: 5 };
      const options = {
        ...this.size,
        padding: [12, 16, 0, 0],
        legend: { show: false },
        cursor: {
          y: false,
          points: { show: false },
          drag: { x: true, y: true, uni: 20, setScale: false },
          bind: { dblclick: () => () => this.look(null) },
        },
        scales: {
          x: { time: false, range: () => this.ranges.x },
          y: { distr: this.isLog ? 3 : 1, range: () => this.ranges.y },
        },
        series: [{}, { paths: () => null, points: { show: false } }],
        axes: [
          { ...axis, ticks, space: 44, size: 28, gap: 4, label: "epoch", labelFont: font, labelSize: 18, labelGap: 0, incrs: wholeSteps, values: (_, at) => at.map((one) => short(one)) },
          { ...axis, ticks, space: 34, gap: 4, size: roomFor, values: (_, at) => at.map((one) => (one === null ? null : short(one))) },
        ],
        hooks: {
          draw: [() => this.paint()],
          setSelect: [(chart) => this.selected(chart)],
          setCursor: [(chart) => point(this, chart)],
        },
      };
      this.measure();
      this.chart = new uPlot(options, [[0, 1], [1, 1]], this.plot);
      this.refresh();
    }

    // Finds what is to be seen: all, or what was zoomed to.
    measure() {
      const whole = this.zoom?.x;
      let [x, y] = [[Infinity, -Infinity], [Infinity, -Infinity]];
      const wide = (range, value) => [Math.min(range[0], value), Math.max(range[1], value)];
      for (const curve of this.curves) {
        curve.x.forEach((at, index) => {
          x = wide(x, at);
          for (const value of [curve.y[index], curve.smooth[index]]) {
            if (value === null || (this.isLog && value <= 0) || (whole && (at < whole[0] || at > whole[1]))) continue;
            y = wide(y, value);
          }
        });
      }
      for (const mark of this.marks) x = wide(x, mark.x);
      if (this.isLog && y[0] !== Infinity) {
        const ratio = Math.max(1.1, (y[1] / y[0]) ** 0.06);
        y = [y[0] / ratio, y[1] * ratio];
      } else {
        y = this.isLog ? [0.1, 1] : padded(y, 0.06);
      }
      if (!this.figure.byEpoch && x[0] !== Infinity) x = [Math.floor(x[0]), Math.max(Math.floor(x[0]) + 1, Math.ceil(x[1]))];
      this.ranges = { x: this.zoom?.x ?? padded(x, 0.02), y: this.zoom?.y ?? y };
    }

    refresh() {
      this.measure();
      const { x, y } = this.ranges;
      this.chart.batch(() => {
        this.chart.setScale("x", { min: x[0], max: x[1] });
        this.chart.setScale("y", { min: y[0], max: y[1] });
      });
      this.chart.redraw(false, true);
    }

    look(zoom) {
      this.zoom = zoom;
      this.refresh();
    }

    selected(chart) {
      const { left, top, width, height } = chart.select;
      if (width < 3 && height < 3) return;
      const { width: fullWidth, height: fullHeight } = chart.over.getBoundingClientRect();
      const part = (from, length, full, axis) => {
        if (length < 3 || length >= full - 1) return undefined;
        const ends = [chart.posToVal(from, axis), chart.posToVal(from + length, axis)];
        return ends[0] < ends[1] ? ends : ends.reverse();
      };
      chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      this.look({ x: part(left, width, fullWidth, "x"), y: part(top, height, fullHeight, "y") });
    }

    smooth(weight) {
      this.smoothed = this.figure.curves.map((curve) => (weight > 0 ? smooth(curve.y, weight) : curve.y));
      this.refresh();
    }

    // Returns where a point is in the figure, in pixels: of the screen, or of the canvas.
    place(x, y, ofCanvas) {
      const bottom = ofCanvas ? this.chart.bbox.top + this.chart.bbox.height : this.chart.bbox.height / devicePixelRatio;
      const unit = ofCanvas ? devicePixelRatio : 1;
      const height = y === null || (this.isLog && y <= 0) ? bottom - 12 * unit : this.chart.valToPos(y, "y", ofCanvas);
      return [this.chart.valToPos(x, "x", ofCanvas), height];
    }

    // A mark is above its curve, so that the value can be seen; a gap, which has none, is marked where it would be.
    placeOf(mark, ofCanvas) {
      const [x, y] = this.place(mark.x, mark.y, ofCanvas);
      const raised = mark.y === null || mark.kind === "nonfinite" ? 0 : 11;
      return [x, y - raised * (ofCanvas ? devicePixelRatio : 1)];
    }

    paint() {
      const { ctx, bbox } = this.chart;
      const unit = devicePixelRatio;
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left - 1, bbox.top - 8 * unit, bbox.width + 8 * unit, bbox.height + 8 * unit);
      ctx.clip();
      ctx.lineJoin = "round";
      this.drawn = { curves: 0, marks: 0 };
      for (const curve of this.curves) {
        const isSmooth = curve.smooth !== curve.y;
        if (isSmooth) this.line(curve, curve.y, 0.22 * curve.strength);
        this.line(curve, curve.smooth, curve.strength);
        this.drawn.curves += 1;
      }
      for (const mark of this.marks) {
        this.symbol(mark);
        this.drawn.marks += 1;
      }
      ctx.restore();
    }

    line(curve, values, strength) {
      const { ctx } = this.chart;
      const unit = devicePixelRatio;
      const many = runs.length > crowd;
      const seen = (index) => index in values && values[index] !== null && !(this.isLog && values[index] <= 0);
      const symbols = !many && values.length <= 60;
      ctx.globalAlpha = strength;
      ctx.strokeStyle = ctx.fillStyle = runs[curve.run].colour;
      ctx.lineWidth = (many ? 1.25 : 2) * unit;
      ctx.setLineDash(curve.dotted ? [2 * unit, 3 * unit] : []);
      ctx.beginPath();
      for (let index = 0; index < values.length; index += 1) {
        if (!seen(index)) continue;
        const [x, y] = this.place(curve.x[index], values[index], true);
        if (seen(index - 1)) ctx.lineTo(x, y);
        else ctx.moveTo(x, y);
      }
      ctx.stroke();
      ctx.setLineDash([]);
      for (let index = 0; index < values.length; index += 1) {
        if (!seen(index) || !(symbols || (!seen(index - 1) && !seen(index + 1)))) continue;
        const [x, y] = this.place(curve.x[index], values[index], true);
        ctx.beginPath();
        ctx.arc(x, y, (symbols && values.length > 1 ? 2.5 : 3.5) * unit, 0, 7);
        ctx.fill();
      }
      ctx.globalAlpha = 1;
    }

    symbol(mark) {
      const { ctx, bbox } = this.chart;
      const unit = devicePixelRatio;
      const [x, y] = this.placeOf(mark, true);
      ctx.strokeStyle = ctx.fillStyle = runs[mark.run].colour;
      if (mark.kind === "checkpoint") {
        ctx.fillRect(x - unit, bbox.top + bbox.height - 8 * unit, 2 * unit, 8 * unit);
        return;
      }
      ctx.save();
      ctx.translate(x - 7 * unit, y - 7 * unit);
      ctx.scale((14 / 16) * unit, (14 / 16) * unit);
      if (mark.kind === "nonfinite") {
        ctx.lineWidth = 1.75;
        ctx.beginPath();
        ctx.arc(8, 8, 5.5, 0, 7);
        ctx.stroke(new Path2D("M4 4 12 12M12 4 4 12"));
        ctx.stroke();
      } else {
        ctx.lineWidth = 3;
        ctx.strokeStyle = theme.card;
        ctx.stroke(outlines[mark.kind]);
        ctx.fill(outlines[mark.kind]);
      }
      ctx.restore();
    }

    // Returns what is nearest to a point of the figure, and what is to be said of it; null if nothing is near.
    nearest(left, top) {
      let best = null;
      let least = near * near;
      const look = ([atX, atY], found) => {
        const distance = (atX - left) ** 2 + (atY - top) ** 2;
        if (distance < least) [least, best] = [distance, { ...found, at: [atX, atY] }];
      };
      for (const curve of this.curves) {
        curve.x.forEach((x, index) => {
          if (curve.y[index] !== null) look(this.place(x, curve.smooth[index], false), { curve, index });
        });
      }
      for (const mark of this.marks) look(this.placeOf(mark, false), { mark });
      return best;
    }
  }

  // Whole epochs only, unless one zooms into a part of one.
  const wholeSteps = (_chart, _axis, low, high) => {
    const steps = [];
    for (let power = high - low < 1.5 ? -6 : 0; power < 17; power += 1) steps.push(...[1, 2, 5].map((one) => one * 10 ** power));
    return high - low < 1.5 && high - low >= 1 ? steps.filter((one) => one >= 1) : steps;
  };

  const ruler = document.createElement("canvas").getContext("2d");
  const roomFor = (_chart, values) => {
    ruler.font = font;
    return 16 + Math.ceil(Math.max(18, ...(values ?? []).map((one) => ruler.measureText(one ?? "").width)));
  };

  // What is said where one points

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  const ring = document.createElement("div");
  ring.className = "ring";
  ring.hidden = true;
  document.body.append(tip, ring);

  const words = (figure, { curve, index, mark }) => {
    if (mark) return [`${mark.label} · ${runs[mark.run].name}`, ...mark.text.split("\n")];
    const name = `${runs[curve.run].name}, ${curve.name}`;
    const at = curve.at?.slice(3 * index, 3 * index + 3);
    const where = at ? `epoch ${at[0]}, batch ${at[1]}, step ${at[2]}` : `epoch ${curve.x[index]}`;
    const said = [name, where, `${figure.y} ${short(curve.y[index])}`];
    if (curve.smooth !== curve.y) said.push(`smoothed ${short(curve.smooth[index])}`);
    return said;
  };

  const point = (chart, { cursor, over }) => {
    const found = cursor.left >= 0 ? chart.nearest(cursor.left, cursor.top) : null;
    tip.hidden = ring.hidden = found === null;
    if (found === null) return;
    const lines = words(chart.figure, found).map((text) => Object.assign(document.createElement("div"), { textContent: text }));
    tip.replaceChildren(...lines);
    const box = over.getBoundingClientRect();
    const [x, y] = [box.left + found.at[0], box.top + found.at[1]];
    const { width, height } = tip.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, Math.min(room - width - 4, x + 14 + width > room ? x - width - 14 : x + 14))}px`;
    tip.style.top = `${y - height - 12 < 0 ? y + 14 : y - height - 12}px`;
    ring.style.left = `${x}px`;
    ring.style.top = `${y}px`;
    ring.style.borderColor = runs[(found.mark ?? found.curve).run].colour;
  };
  window.addEventListener("scroll", () => (tip.hidden = ring.hidden = true), { passive: true });

  // Tables

  // A number, a duration in seconds, or text; what is missing or not finite is NaN and comes last.
  const sortKey = (cell) => {
    const text = cell?.textContent.trim() ?? "";
    const [, hours, minutes, seconds] = /^(?:([\d,.]+) h )?(?:(\d+) min)?(?: ?([\d.e+-]+) s)?$/.exec(text) ?? [];
    const lasted = [hours, minutes, seconds].map((one) => Number((one ?? "0").replaceAll(",", "")));
    if (hours ?? minutes ?? seconds) return 3600 * lasted[0] + 60 * lasted[1] + lasted[2];
    if (["", "–", "nan", "inf", "-inf"].includes(text)) return NaN;
    const number = /^-?[\d,]*\.?\d+(?:e[+-]?\d+)?(?= |$)/.exec(text);
    return number ? Number(number[0].replaceAll(",", "")) : text;
  };

  const compare = (one, other) => {
    if (Number.isNaN(one) || Number.isNaN(other)) return null;
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), undefined, { numeric: true });
  };

  const sort = (table, column, up) => {
    const [body] = table.tBodies;
    const rows = [...body.rows].map((row) => ({ row, key: sortKey(row.cells[column]) }));
    rows.sort((one, other) => {
      const order = compare(one.key, other.key);
      return order === null ? Number.isNaN(one.key) - Number.isNaN(other.key) : up ? order : -order;
    });
    body.append(...rows.map(({ row }) => row));
    [...table.tHead.rows[0].cells].forEach((cell, at) => {
      if (at === column) cell.ariaSort = up ? "ascending" : "descending";
      else cell.removeAttribute("aria-sort");
    });
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...cell.childNodes);
      button.addEventListener("click", () => sort(table, column, cell.ariaSort !== "ascending"));
      cell.append(button);
    });
  }

  // What a run is found by: its name, its outcome and its settings, wherever they stand.
  const textOf = runs.map(() => "");
  for (const part of document.querySelectorAll(".summary [data-of], .differing [data-of], #legend [data-of]")) {
    textOf[part.dataset.of] += ` ${part.textContent.toLowerCase()} ${part.title.toLowerCase()}`;
  }
  const heads = [...document.querySelectorAll(".differing thead th")].map((cell) => cell.textContent.toLowerCase());
  for (const row of document.querySelectorAll(".differing tbody tr")) {
    [...row.cells].forEach((cell, at) => (textOf[row.dataset.of] += ` ${heads[at]}=${cell.textContent.toLowerCase()}`));
  }

  const charts = [];
  const choose = () => {
    const terms = (byId("filter")?.value ?? "").toLowerCase().split(/\s+/);
    const found = textOf.map((text) => terms.every((term) => text.includes(term)));
    shown = boxes.map((box, at) => box.checked && found[at]);
    document.querySelectorAll("[data-of]").forEach((part) => (part.hidden = !found[part.dataset.of]));
    charts.forEach((chart) => chart.refresh());
  };

  const smoothen = () => {
    const weight = Number(byId("smoothing").value);
    byId("smoothed").textContent = String(weight);
    charts.forEach((chart) => chart.smooth(weight));
  };

  const recolour = (isDark) => {
    theme = themeOf(isDark);
    charts.forEach((chart) => chart.chart.redraw(false, true));
  };

  // Paper is white, and as wide as it is.
  const printed = (isPrint) => {
    recolour(!isPrint && dark.matches);
    charts.forEach((chart) => chart.chart.setSize(isPrint ? { ...chart.size, width: 660 } : chart.size));
  };

  for (const plot of plots) {
    try {
      const chart = new Chart(plot, figures[plot.dataset.figure]);
      plot.chart = chart;
      charts.push(chart);
    } catch (error) {
      plot.textContent = `This figure could not be drawn: ${error}`;
      console.error(error);
    }
  }
  for (const canvas of document.querySelectorAll("[data-histograms]")) {
    const columns = histograms[canvas.dataset.histograms];
    const bins = Math.max(1, ...columns.map((one) => one.length));
    [canvas.width, canvas.height] = [columns.length, bins];
    const paper = canvas.getContext("2d");
    columns.forEach((column, x) => {
      [...column].forEach((level, bin) => {
        paper.fillStyle = `rgb(47 126 216 / ${parseInt(level, 36) / 35})`;
        paper.fillRect(x, bins - 1 - bin, 1, 1);
      });
    });
  }
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const { chart } = target;
      if (chart && chart.chart.width !== chart.size.width) chart.chart.setSize(chart.size);
    }
  });
  charts.forEach((chart) => resized.observe(chart.plot));
  boxes.forEach((box) => box.addEventListener("change", choose));
  byId("filter")?.addEventListener("input", choose);
  byId("marks")?.addEventListener("change", () => charts.forEach((chart) => chart.refresh()));
  byId("logarithmic")?.addEventListener("change", () => charts.forEach((chart) => chart.make()));
  byId("smoothing")?.addEventListener("input", smoothen);
  dark.addEventListener("change", () => recolour(dark.matches));
  window.addEventListener("beforeprint", () => printed(true));
  window.addEventListener("afterprint", () => printed(false));
  document.documentElement.dataset.drawn = String(charts.length);
})();
