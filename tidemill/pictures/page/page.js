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
    const axis = (given) => ({ automargin: true, gridcolor: of("--line"), linecolor: of("--line"), zerolinecolor: of("--line"), fixedrange: true, ...given });
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: of("--ink"), family: "system-ui, sans-serif", size: 12 },
      margin: { l: 8, r: 12, t: 12, b: 8 },
      legend: { orientation: "h", yref: "container", y: 1, yanchor: "top", traceorder: "normal" },
      xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
    };
  };
  const places = [...document.querySelectorAll(".picture")].filter((place) => specs[place.dataset.figure]);
  for (const place of places) {
    const { data, layout } = specs[place.dataset.figure];
    await Plotly.newPlot(place, data, dressed(layout), { displayModeBar: false, responsive: true });
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
  }
  const redress = () => places.forEach((place) => Plotly.relayout(place, dressed(specs[place.dataset.figure].layout)));
  dark.addEventListener("change", redress);
  addEventListener("beforeprint", redress);
  addEventListener("afterprint", redress);
  document.body.dataset.ready = "yes";
})();
