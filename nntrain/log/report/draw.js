// Draws the figures of an nntrain report. It reads the JSON beside it, and makes no markup out of text.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("drawn").textContent);
  const plots = [...document.querySelectorAll("[data-figure]")];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const font = "system-ui, sans-serif";

  const theme = (isDark) => {
    const [text, line, grid, back] = isDark
      ? ["#c9d1d9", "#4a525c", "#272c34", "#1d2127"]
      : ["#3a4048", "#b8bec6", "#e8ebee", "#ffffff"];
    const axis = { color: text, gridcolor: grid, linecolor: line, zerolinecolor: grid };
    return { text, axis, label: { bgcolor: back, bordercolor: line, font: { color: text, family: font, size: 13 } } };
  };

  const layout = (given, look) => ({
    ...given,
    height: 300,
    margin: { l: 56, r: 14, t: 10, b: 42 },
    showlegend: false,
    hovermode: "closest",
    dragmode: "zoom",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: font, size: 12, color: look.text },
    hoverlabel: { ...look.label, align: "left", namelength: -1 },
    xaxis: { ...given.xaxis, ...look.axis, showline: true, zeroline: false },
    yaxis: { ...given.yaxis, ...look.axis, zeroline: false },
  });

  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: false,
    scrollZoom: false,
    doubleClick: "reset+autosize",
  };

  // Changes colours only, and keeps the reader's zoom.
  const recolour = (isDark) => {
    const { text, axis, label } = theme(isDark);
    const changes = { "font.color": text, "hoverlabel.bgcolor": label.bgcolor, "hoverlabel.bordercolor": label.bordercolor };
    changes["hoverlabel.font.color"] = text;
    for (const name of ["xaxis", "yaxis"]) {
      for (const [key, value] of Object.entries(axis)) changes[`${name}.${key}`] = value;
    }
    plots.forEach((plot) => plot.layout && Plotly.relayout(plot, changes));
  };

  const shown = () => {
    const runs = [...document.querySelectorAll("[data-run]")].map((box) => box.checked);
    const marks = document.getElementById("marks").checked;
    plots.forEach((plot, index) => {
      const figure = figures[index];
      const visible = figure.data.map((trace, at) => runs[figure.runs[at]] && (marks || trace.mode !== "markers"));
      if (plot.layout) Plotly.restyle(plot, { visible });
    });
  };

  const scaled = () => {
    const type = document.getElementById("logarithmic").checked ? "log" : "linear";
    plots.forEach((plot) => plot.layout && Plotly.relayout(plot, { "yaxis.type": type, "yaxis.autorange": true }));
  };

  const draw = async () => {
    let drawn = 0;
    for (const [index, plot] of plots.entries()) {
      try {
        await Plotly.newPlot(plot, figures[index].data, layout(figures[index].layout, theme(dark.matches)), config);
        drawn += 1;
      } catch (error) {
        plot.textContent = `This figure could not be drawn: ${error}`;
        console.error(error);
      }
    }
    document.documentElement.dataset.drawn = String(drawn);
  };

  document.querySelectorAll("[data-run], #marks").forEach((box) => box.addEventListener("change", shown));
  document.getElementById("logarithmic")?.addEventListener("change", scaled);
  dark.addEventListener("change", () => recolour(dark.matches));
  window.addEventListener("beforeprint", () => recolour(false));
  window.addEventListener("afterprint", () => recolour(dark.matches));
  draw();
})();
