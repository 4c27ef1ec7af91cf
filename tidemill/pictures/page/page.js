"use strict";
(async () => {
  const specs = JSON.parse(document.getElementById("figures").textContent);
  const packed = document.getElementById("library").textContent;
  const dark = matchMedia("(prefers-color-scheme: dark)");

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      getSelection().selectAllChildren(code);
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Selected: copy it by Ctrl+C";
      }
    });
  }
  if (!packed) return;

  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const library = document.createElement("script");
  library.textContent = await new Response(
    new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(library);

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    return (name) => style.getPropertyValue(name).trim();
  };
  const dressed = (layout) => {
    const of = colours();
    const axis = (given = {}) => ({ automargin: true, gridcolor: of("--line"), linecolor: of("--line"), zerolinecolor: of("--line"), fixedrange: true, ...given,
      // Without it a title lies over long names of categories.
      ...(given.title && { title: { standoff: 14, ...given.title } }) });
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: of("--ink"), family: "system-ui, sans-serif", size: 12 },
      margin: { l: 8, r: 28, t: 12, b: 8 },
      legend: { orientation: "h", yref: "container", y: 1, yanchor: "top", traceorder: "normal" },
      xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
    };
  };
  const places = [...document.querySelectorAll(".picture")].filter((place) => specs[place.dataset.figure]);
  const coloured = ({ x, y, told }, { groups, numbers, ticks, told: named }) => {
    const all = { type: "scatter", mode: "markers", hovertemplate: "%{text}<extra></extra>", hoverlabel: { align: "left" } };
    if (groups) {
      return groups.map(({ name, places, marker }) => ({
        ...all, name, marker, showlegend: groups.length > 1,
        x: places.map((i) => x[i]), y: places.map((i) => y[i]), text: places.map((i) => told[i]) }));
    }
    const colorbar = { tickvals: ticks, ticktext: named, orientation: "h", thickness: 10, y: 1 };
    return [{ ...all, x, y, text: told, marker: { size: 7, color: numbers, colorscale: "Viridis", colorbar } }];
  };
  const config = { displayModeBar: false, responsive: true };
  for (const place of places) {
    const { data, layout, points, choices } = specs[place.dataset.figure];
    const choice = document.querySelector(`select[data-figure="${CSS.escape(place.dataset.figure)}"]`);
    const traces = () => points ? coloured(points, choices[choice ? choice.value : 0]) : data;
    choice?.addEventListener("change", () => Plotly.react(place, traces(), dressed(layout), config));
    await Plotly.newPlot(place, traces(), dressed(layout), config);
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
  }
  const redress = () => places.forEach((place) => Plotly.relayout(place, dressed(specs[place.dataset.figure].layout)));
  dark.addEventListener("change", redress);
  addEventListener("beforeprint", redress);
  addEventListener("afterprint", redress);
  document.body.dataset.ready = "yes";
})();
